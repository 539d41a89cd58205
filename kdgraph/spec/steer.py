"""Steered numbers: constants, schedules, or the values of a signal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from kdgraph.registry import Registry
from kdgraph.spec.types import NAME, Strict


class Schedule(Strict):
    """A number that moves with training; written by its own key, ``{linear: [1, 0], epochs: [0, 60]}``.

    Subclasses name themselves by their first field and define ``at``.
    """

    kind: ClassVar[str]

    def at(self, *, epoch: float, iteration: float) -> float:
        """The value at a point of training, both counted from 0."""
        raise NotImplementedError  # every registered schedule defines it

    def values(self) -> tuple[float, ...]:
        """The numbers the schedule moves between, for range checks."""
        raise NotImplementedError


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
        number = core_schema.float_schema(
            strict=True, gt=self.above, ge=self.at_least, allow_inf_nan=False
        )
        choices: dict[Any, core_schema.CoreSchema] = {
            "number": number,
            "signal": core_schema.str_schema(pattern=rf"^{NAME.pattern}$", strict=True),
        }
        for name, schedule in SCHEDULES.items():
            choices[name] = core_schema.no_info_after_validator_function(
                self._within, handler.generate_schema(schedule)
            )
        return core_schema.tagged_union_schema(choices, discriminator=_steer_kind)

    def _within(self, schedule: Schedule) -> Schedule:
        low = self.above if self.above is not None else self.at_least
        worst = min(schedule.values())
        if low is not None and (worst < low or (worst == low and self.above is not None)):
            raise PydanticCustomError(
                "schedule_range",
                "every value of the schedule must be {how} {low}",
                {"how": "greater than" if self.above is not None else "at least", "low": low},
            )
        return schedule


def _steer_kind(value: object) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "signal"
    if isinstance(value, Schedule):
        return value.kind
    if isinstance(value, Mapping):
        return next((str(k) for k in value if k in SCHEDULES.names()), None)
    return None


Steered = float | Schedule | str
Steer = Annotated[Steered, SteerMark()]
Weight = Annotated[Steered, SteerMark(at_least=0.0)]
Tau = Annotated[Steered, SteerMark(above=0.0)]
