"""Half a cosine wave between two values."""

from __future__ import annotations

import math
from typing import ClassVar

from kdgraph.schedules.base import Pair, Ramp
from kdgraph.spec.steer import register_schedule


@register_schedule
class Cosine(Ramp):
    """``{cosine: [1.0, 0.0], epochs: [0, 60]}``: half a cosine wave, slow at both ends.

    ``first + (last - first) * (1 - cos(pi * share)) / 2``; both ends are met exactly.
    """

    kind: ClassVar[str] = "cosine"
    cosine: Pair

    def ease(self, share: float) -> float:
        return math.sin(0.5 * math.pi * share) ** 2  # (1 - cos(pi * share)) / 2, all digits kept
