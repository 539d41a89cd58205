"""A straight line between two values."""

from __future__ import annotations

from typing import ClassVar

from kdgraph.schedules.base import Pair, Ramp
from kdgraph.spec.steer import register_schedule


@register_schedule
class Linear(Ramp):
    """``{linear: [1.0, 0.0], epochs: [0, 60]}``: a straight line, constant before and after.

    Both ends are met exactly, so a weight that reaches 0.0 is 0.0.
    """

    kind: ClassVar[str] = "linear"
    linear: Pair

    def ease(self, share: float) -> float:
        return share
