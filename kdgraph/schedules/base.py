"""What schedules over a range of training share."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.spec.steer import Schedule
from kdgraph.spec.types import NonNegative

Pair = tuple[float, float]
Range = Annotated[tuple[NonNegative, NonNegative], Field(strict=False)]


class Ramp(Schedule):
    """A schedule from one value to another over ``epochs`` or ``iterations`` (``[from, to]``)."""

    epochs: Range | None = None
    iterations: Range | None = None

    @model_validator(mode="after")
    def _one_range(self) -> Self:
        if (self.epochs is None) == (self.iterations is None):
            raise PydanticCustomError(
                "schedule_unit", "give the range as either 'epochs' or 'iterations'"
            )
        start, end = self.epochs or self.iterations or (0, 0)
        if end <= start:
            raise PydanticCustomError(
                "schedule_order", "the range must end after it starts, not [{a}, {b}]",
                {"a": start, "b": end},
            )
        return self

    def at(self, *, epoch: float, iteration: float) -> float:
        first, last = self.values()[0], self.values()[-1]
        now = epoch if self.epochs else iteration
        start, end = self.epochs or self.iterations or (0.0, 1.0)
        if now <= start:
            return first
        if now >= end:
            return last
        return self.between((now - start) / (end - start))

    def between(self, share: float) -> float:
        """The value at ``share`` of the range, 0 < share < 1."""
        raise NotImplementedError  # every ramp defines it
