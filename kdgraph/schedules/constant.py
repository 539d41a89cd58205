"""One value, always."""

from __future__ import annotations

from typing import ClassVar

from kdgraph.spec.steer import Schedule, register_schedule


@register_schedule
class Constant(Schedule):
    """``{constant: 0.5}``: the same as the number alone, where a schedule may be swapped in."""

    kind: ClassVar[str] = "constant"
    constant: float

    def values(self) -> tuple[float, ...]:
        return (self.constant,)

    def at(self, *, epoch: float, iteration: float) -> float:
        return self.constant
