"""Number: one number that several edges or signals read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import register_signal
from kdgraph.spec.shapes import Shape
from kdgraph.spec.steer import Steer, Steered

if TYPE_CHECKING:
    from torch import Tensor, nn


@register_signal
class Number(Signal):
    """A constant or a schedule, as a 0-dim float32 tensor.

    Made for a schedule that several places share: as the weight of one edge, and behind
    ``affine`` with ``scale: -1, shift: 1`` as the weight of another, it is ``lambda`` and
    ``1 - lambda``. Moving a schedule recompiles nothing.
    """

    use: Literal["number"] = "number"
    value: Annotated[Steer, Field(examples=[0.5])]

    @field_validator("value")
    @classmethod
    def _own(cls, value: Steered) -> Steered:
        if isinstance(value, str):
            raise PydanticCustomError(
                "number_of_signal",
                "a signal is one already; name '{name}' itself, or read it by `use: affine`",
                {"name": value},
            )
        return value

    def shape(self) -> Shape:
        return ()

    def forward(self, *, value: Tensor | float) -> Tensor:
        result: Tensor = self.module()(value=value)
        return result

    def module(self) -> nn.Module:
        from kdgraph.signals._number import NumberModule

        return NumberModule(self.value if isinstance(self.value, float) else None)
