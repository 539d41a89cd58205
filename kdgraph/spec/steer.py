"""Steered numbers: constants, schedules, or the values of a signal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

from kdgraph.registry import Registry
from kdgraph.spec.types import NAME, Strict


class Schedule(Strict):
    """A number that moves with training, ``{linear: [1, 0], epochs: [0, 60]}``.

    ``kind`` is the key that tells a schedule apart; its field of that name holds the values.
    Subclasses define ``at`` and ``values``.
    """

    kind: ClassVar[str]

    def at(self, *, epoch: float, iteration: float) -> float:
        """The value at a point of training, both counted from 0."""
        raise NotImplementedError  # every registered schedule defines it

    def values(self) -> tuple[float, ...]:
        """The numbers the schedule moves between, for range checks."""
        raise NotImplementedError  # every registered schedule defines it


SCHEDULES: Registry[type[Any]] = Registry("schedule", "kdgraph.schedules")
S = TypeVar("S", bound=Schedule)


def register_schedule(cls: type[S]) -> type[S]:
    """Makes a schedule known under its ``kind``."""
    SCHEDULES.add(cls.kind, cls)
    return cls


@dataclass(frozen=True)
class SteerMark:
    """A steered number: a constant within bounds, a schedule of such, or a signal's name."""

    above: float | None = None
    at_least: float | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        number: dict[str, Any] = {"type": "number"}
        if self.above is not None:
            number["exclusiveMinimum"] = self.above
        if self.at_least is not None:
            number["minimum"] = self.at_least
        signal = {"type": "string", "pattern": f"^{NAME.pattern}$"}
        moving = [handler(cls.__pydantic_core_schema__) for _, cls in SCHEDULES.items()]
        return {"anyOf": [number, signal, *moving]}

    def _check(self, value: object) -> float | str | Schedule:
        """Looks schedules up when a value is read, so that a late registration counts."""
        if isinstance(value, Schedule):
            return self._within(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._number(float(value))
        if isinstance(value, str):
            if NAME.fullmatch(value):
                return value
        elif isinstance(value, Mapping):
            return self._within(self._schedule(value))
        raise PydanticCustomError("form", "a number, a schedule or the name of a signal")

    def _number(self, value: float) -> float:
        if not math.isfinite(value):
            raise PydanticKnownError("finite_number")
        if self.above is not None and value <= self.above:
            raise PydanticKnownError("greater_than", {"gt": self.above})
        if self.at_least is not None and value < self.at_least:
            raise PydanticKnownError("greater_than_equal", {"ge": self.at_least})
        return value

    def _schedule(self, value: Mapping[Any, Any]) -> Schedule:
        known = SCHEDULES.names()
        if (kind := next((k for k in value if k in known), None)) is not None:
            return cast(Schedule, SCHEDULES.get(kind).model_validate(value))
        raise PydanticCustomError(
            "unknown_schedule",
            "a mapping here is a schedule",
            {"known": known, "listing": SCHEDULES.listing},
        )

    def _within(self, schedule: Schedule) -> Schedule:
        low = self.above if self.above is not None else self.at_least
        worst = min(schedule.values())
        if low is not None and (worst < low or (worst == low and self.above is not None)):
            raise PydanticCustomError(
                "schedule_range",
                "every value of the schedule must be {how} {low}",
                {
                    "how": "greater than" if self.above is not None else "at least",
                    "low": f"{low:g}",
                },
            )
        return schedule


Steered = float | Schedule | str
Steer = Annotated[Steered, SteerMark()]
Weight = Annotated[Steered, SteerMark(at_least=0.0)]
Tau = Annotated[Steered, SteerMark(above=0.0)]
