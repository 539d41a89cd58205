"""A straight line between two values."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kdgraph.schedules.base import Pair, Ramp
from kdgraph.spec.steer import register_schedule


@register_schedule
class Linear(Ramp):
    """``{linear: [1.0, 0.0], epochs: [0, 60]}``: constant before and after the range.

    Both ends are met exactly, so a weight that reaches 0.0 is 0.0.
    """

    kind: ClassVar[str] = "linear"
    linear: Annotated[Pair, Field(strict=False)]

    def values(self) -> tuple[float, ...]:
        return self.linear

    def between(self, share: float) -> float:
        start, end = self.linear
        return start + (end - start) * share
