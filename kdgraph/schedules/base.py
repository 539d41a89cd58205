"""What schedules over a part of training share."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.spec.steer import Schedule
from kdgraph.spec.types import NonNegative

Pair = Annotated[tuple[float, float], Field(strict=False)]
Points = tuple[NonNegative, ...]
Range = Annotated[tuple[NonNegative, NonNegative], Field(strict=False)]


class Timed(Schedule):
    """A schedule with points in training, counted in ``epochs`` or in ``iterations``.

    An epoch may be fractional: 59.5 is half way through the sixtieth.
    """

    epochs: Annotated[Points, Field(strict=False, min_length=1)] | None = None
    iterations: Annotated[Points, Field(strict=False, min_length=1)] | None = None

    @property
    def points(self) -> Points:
        """The points, in the unit that was written."""
        return self.epochs or self.iterations or ()

    def now(self, epoch: float, iteration: float) -> float:
        """The progress in that unit."""
        return iteration if self.epochs is None else epoch

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if (self.epochs is None) == (self.iterations is None):
            raise PydanticCustomError("schedule_unit", "give either 'epochs' or 'iterations'")
        for earlier, later in pairwise(self.points):
            if later <= earlier:
                raise PydanticCustomError(
                    "schedule_order",
                    "epochs or iterations must increase, not go from {a} to {b}",
                    {"a": earlier, "b": later},
                )
        return self


class Ramp(Timed):
    """From a first value to a last one over a range; constant before and after, exactly.

    Subclasses set ``kind``, hold the two values in a field of that name (a ``Pair``), and define
    ``ease``, the way between.
    """

    epochs: Range | None = None
    iterations: Range | None = None

    def values(self) -> tuple[float, ...]:
        first, last = getattr(self, self.kind)
        return first, last

    def at(self, *, epoch: float, iteration: float) -> float:
        start, end = self.points
        first, last = self.values()
        now = self.now(epoch, iteration)
        if now <= start:
            return first
        if now >= end:
            return last
        return between(first, last, self.ease((now - start) / (end - start)))

    def ease(self, share: float) -> float:
        """How far the value has come, 0 to 1, when ``share`` of the range has passed."""
        raise NotImplementedError  # every ramp defines it


def between(first: float, last: float, share: float) -> float:
    """The value at ``share`` (0 to 1) of the way, never outside of it, and monotone.

    ``first + (last - first) * share`` alone overshoots by rounding, and overflows.
    """
    if share >= 1:
        return last
    if min(first, last) <= 0 <= max(first, last):
        return (1 - share) * first + share * last
    value = first + (last - first) * share
    return min(max(value, min(first, last)), max(first, last))
