"""Values that change at once, at given points."""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.schedules.base import Timed
from kdgraph.spec.steer import register_schedule


@register_schedule
class Steps(Timed):
    """``{steps: [6, 5.4, 4.86], epochs: [60, 160]}``: each value holds up to the next point.

    There is one value more than there are points; at a point itself the later value holds.
    """

    kind: ClassVar[str] = "steps"
    steps: Annotated[tuple[float, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _one_more_value(self) -> Self:
        if len(self.steps) != len(self.points) + 1:
            raise PydanticCustomError(
                "schedule_steps",
                "{n} points part training into {m} pieces, but there are {k} values",
                {"n": len(self.points), "m": len(self.points) + 1, "k": len(self.steps)},
            )
        return self

    def values(self) -> tuple[float, ...]:
        return self.steps

    def at(self, *, epoch: float, iteration: float) -> float:
        return self.steps[bisect_right(self.points, self.now(epoch, iteration))]
