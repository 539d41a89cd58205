"""Affine: a tensor scaled and shifted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape
from kdgraph.spec.steer import Steer

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Affine(Signal):
    """``scale * x + shift``, then within ``clamp: [lowest, highest]`` where that is given.

    ``x`` has any shape and keeps it; ``1 - x`` is ``scale: -1, shift: 1``. Gradients pass, none
    where ``clamp`` cuts off; a signal ``detach`` in front of it stops them.
    """

    use: Literal["affine"] = "affine"
    of: Ref
    scale: Steer = 1.0
    shift: Steer = 0.0
    clamp: Annotated[tuple[float, float], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.clamp is not None and self.clamp[0] > self.clamp[1]:
            raise PydanticCustomError("clamp_order", "'clamp' is [lowest, highest]")
        return self

    def shape(self, *, of: Shape) -> Shape:
        return of

    def forward(self, *, of: Tensor, scale: Tensor | float, shift: Tensor | float) -> Tensor:
        from kdgraph.signals._module import lined_up, wide

        x = wide(of)
        result: Tensor = x * lined_up(scale, x) + lined_up(shift, x)
        return result if self.clamp is None else result.clamp(*self.clamp)
