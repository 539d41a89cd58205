"""Which of several processes this is, as ``torchrun`` says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

import torch

from kdgraph.errors import DataError


@dataclass(frozen=True)
class Place:
    """A process among those that share a job.

    Attributes:
        rank: its number.
        world: how many there are.
        device: what it computes on.
    """

    rank: int
    world: int
    device: torch.device

    @classmethod
    def found(cls, device: str) -> Self:
        """From the environment; ``auto`` and ``cuda`` give each process of a machine its GPU.

        Raises:
            DataError: KD710 when the device cannot be used.
        """
        rank, world = (int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
        name = {"gpu": "cuda"}.get(device, device)
        if name == "auto":
            mps = torch.backends.mps.is_available()
            name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        if name == "cuda":
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        try:
            chosen = torch.device(name)
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
            message = f"device {device!r} cannot be used: {error}"
            raise DataError.of("KD710", message) from error
        return cls(rank, world, chosen)
