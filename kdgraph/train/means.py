"""Means of the losses over an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdgraph.train.ranks import mean, of_all, rank, world


class Means:
    """Means of the losses over an epoch, kept on the device so that nothing waits for it.

    The mean of an edge is over the steps that have it: phases of a stage may differ in theirs.
    Of several processes each keeps its own sums, and what is told is the mean over them.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self._last: dict[str, Tensor] = {}

    def add(self, loss: Tensor, losses: Mapping[str, Tensor]) -> None:
        """Counts one step in."""
        self._last = {"loss": loss.detach()}
        self._last |= {f"loss/{name}": value.detach() for name, value in losses.items()}
        for name, value in self._last.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def last(self) -> dict[str, float]:
        """The values of the last step."""
        return {name: float(value) for name, value in mean(self._last).items()}

    def close(self) -> dict[str, float]:
        """The means, after which counting starts over."""
        sums = mean(self.sums)
        means = {name: float(value) / self.counts[name] for name, value in sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state(self) -> dict[str, Any]:
        """For a checkpoint; of several processes the sums of each, [processes]."""
        sums = {n: v.cpu() for n, v in self.sums.items()}
        if world() > 1:
            every = of_all(sums)
            sums = {n: torch.stack([one[n] for one in every]) for n in sums}
        return {"sums": sums, "counts": dict(self.counts)}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        self.sums = {name: _own(value) for name, value in state["sums"].items()}
        self.counts = dict(state["counts"])


def _own(sums: Tensor) -> Tensor:
    """What this process goes on from; of another number of processes it is the mean of theirs."""
    if not sums.dim():
        return sums
    return sums[rank()] if len(sums) == world() else sums.double().mean().to(sums.dtype)
