"""The processes that share a job, as ``torchrun`` starts them, and what they say to each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import torch
from torch import Tensor, distributed

from kdgraph.errors import DataError

_STARTED = "MASTER_ADDR"  # whoever starts processes that can talk says where


@dataclass(frozen=True)
class Place:
    """A process among those that share a job.

    Attributes:
        rank: its number.
        world: how many there are.
        device: what it computes on.
        here: how many of them are on this machine.
    """

    rank: int
    world: int
    device: torch.device
    here: int = 1

    @classmethod
    def found(cls, device: str) -> Self:
        """From the environment; ``auto`` and ``cuda`` give each process of a machine its GPU.

        Raises:
            DataError: KD710 when the device cannot be used.
        """
        rank, world, local, here = (_number(n, d) for n, d in _SAID.items())
        here = here or world
        name = {"gpu": "cuda"}.get(device, device)
        if name == "auto":
            mps = torch.backends.mps.is_available() and world == 1
            name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        if here > 1 and name not in ("cpu", "cuda"):
            message = f"{here} processes cannot share device {device!r}"
            raise DataError.of("KD710", message, help="write `--device cuda`, one for each")
        if name == "cuda" and here > 1 and here > torch.cuda.device_count():
            message = f"{here} processes are on this machine, which has "
            message += f"{torch.cuda.device_count()} GPUs"
            raise DataError.of("KD710", message, help="start as many processes as there are GPUs, "
                               "or write `--device cpu`")  # fmt: skip
        if name == "cuda":
            name = f"cuda:{local}"
        try:
            chosen = torch.device(name)
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
            message = f"device {device!r} cannot be used: {error}"
            raise DataError.of("KD710", message) from error
        return cls(rank, world, chosen, here)

    @property
    def nodes(self) -> int:
        """How many machines there are, all with as many processes."""
        return self.world // self.here


_SAID = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 0}


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


def can_meet() -> bool:
    """Whether the processes have been told where they find each other."""
    return _STARTED in os.environ


@contextmanager
def joined(place: Place, patience: timedelta | None = None) -> Iterator[None]:
    """Lets the processes of a job talk to each other while the block runs.

    Does nothing for a single process, or where they do already.

    Args:
        place: of this process.
        patience: how long it waits for others; left out: as torch has it, some minutes.

    Raises:
        DataError: KD718 when nothing says where the others are.
    """
    if place.world == 1 or distributed.is_initialized():
        yield
        return
    if not can_meet():
        message = f"WORLD_SIZE says that there are {place.world} processes, but not where they are"
        raise DataError.of("KD718", message, help="start them by torchrun")
    if place.device.type == "cuda":
        torch.cuda.set_device(place.device)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if place.device.type == "cuda" else "gloo",
        timeout=patience,
        device_id=place.device if place.device.type == "cuda" else None,
    )
    yield
    distributed.destroy_process_group()  # not after an error: others may be waiting for this one


def world() -> int:
    """How many processes talk to each other; 1 outside of ``joined``."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this one among them."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def of_rank() -> tuple[object, ...]:
    """What sets the random numbers of this process apart; the first has those of a single one."""
    return ("rank", rank()) if rank() else ()


def writes() -> bool:
    """Whether this process is the one that writes what all have to say."""
    return rank() == 0


def meet() -> None:
    """Waits until every process is here: what one wrote before, all can read after."""
    if world() > 1:
        distributed.barrier()


def told(value: Any) -> Any:
    """What the first process has for a value."""
    if world() == 1:
        return value
    said = [value]
    distributed.broadcast_object_list(said)
    return said[0]


def of_all(value: Any) -> list[Any]:
    """The values of all processes, in their order."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    distributed.all_gather_object(found, value)
    return found


def mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean over processes of numbers that each of them has, 0-dim tensors by name."""
    if world() == 1 or not values:
        return dict(values)
    together = torch.stack([value.detach().double() for value in values.values()])
    distributed.all_reduce(together)
    return dict(zip(values, (together / world()).unbind(), strict=True))


def averaged(value: Tensor) -> Tensor:
    """The mean over processes of a tensor that each of them has."""
    if world() == 1:
        return value
    whole = value.clone()
    distributed.all_reduce(whole)
    return whole / world()


def part(rows: int, share: tuple[int, int]) -> slice:
    """Which rows of a batch a process has: a stretch, as long as others or shorter by one.

    Args:
        rows: of the whole batch.
        share: its number, and how many there are.
    """
    number, of = share
    return slice(rows * number // of, rows * (number + 1) // of)
