"""Progress of training, and the numbers that move with it, as tensors of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdgraph.spec.language import Spec
from kdgraph.spec.steer import Schedule


def schedules(spec: Spec) -> dict[str, Schedule]:
    """Every scheduled number of a spec, by its buffer name (``losses_hint_weight``)."""
    found: dict[str, Schedule] = {}
    parts: Mapping[str, Mapping[str, Any]] = {"losses": spec.losses, "signals": spec.signals}
    for part, entries in parts.items():
        for name, entry in entries.items():
            for field in entry.steer_fields():
                if isinstance(value := getattr(entry, field), Schedule):
                    found[f"{part}_{name}_{field}"] = value
    return found


class Steer(nn.Module):
    """Where training is, and one 0-dim float32 buffer per scheduled number.

    The graph reads the buffers, so that moving them needs no recompilation. Progress is part of
    the state dict; the scheduled numbers follow from it.
    """

    def __init__(self, found: Mapping[str, Schedule]) -> None:
        super().__init__()
        self.schedules = dict(found)
        self.epoch = self.iteration = 0.0
        for name in self.schedules:
            self.register_buffer(name, torch.zeros(()), persistent=False)
        self.set()

    @torch.no_grad()
    def set(self, epoch: float | None = None, iteration: float | None = None) -> None:
        """Moves training to a point, both counted from 0; what is left out stays."""
        self.epoch = self.epoch if epoch is None else float(epoch)
        self.iteration = self.iteration if iteration is None else float(iteration)
        for name, schedule in self.schedules.items():
            value = schedule.at(epoch=self.epoch, iteration=self.iteration)
            self.get_buffer(name).fill_(value)

    def get_extra_state(self) -> Tensor:
        """Epoch and iteration as a float64 tensor [2]; it never leaves the CPU."""
        return torch.tensor([self.epoch, self.iteration], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Takes training up where it was."""
        self.set(*state.tolist())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Steer:
        """Follows a move to another device, never a cast: a schedule keeps its digits."""
        for name, buffer in list(self._buffers.items()):
            assert buffer is not None
            self._buffers[name] = buffer.to(fn(buffer).device)
        return self
