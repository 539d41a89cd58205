"""Means of the losses over an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Means:
    """Means of the losses over an epoch, kept on the device so that nothing waits for it.

    The mean of an edge is over the steps that have it: phases of a stage may differ in theirs.
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
        return {name: float(value) for name, value in self._last.items()}

    def close(self) -> dict[str, float]:
        """The means, after which counting starts over."""
        means = {name: float(value) / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": {n: v.cpu() for n, v in self.sums.items()}, "counts": dict(self.counts)}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
