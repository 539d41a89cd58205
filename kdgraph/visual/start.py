"""The values of the loss edges before the first step of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """One edge at the start.

    Attributes:
        value: of the edge, unweighted.
        weighted: what it adds to the total.
        share: of the sum of all edges' sizes, from 0 to 1.
        task: whether it is of labels, and not of a teacher: what training is for.
    """

    value: float
    weighted: float
    share: float
    task: bool


@dataclass(frozen=True)
class Start:
    """A step on random weights and a random batch.

    Attributes:
        rows: of the batch.
        parts: by edge; empty where it was not run.
        skipped: why it was not.
    """

    rows: int
    parts: Mapping[str, Part]
    skipped: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``--format json``."""
        if self.skipped is not None:
            return {"skipped": self.skipped}
        edges = {
            name: {"value": p.value, "weighted": p.weighted, "share": p.share}
            for name, p in self.parts.items()
        }
        return {"rows": self.rows, "edges": edges}
