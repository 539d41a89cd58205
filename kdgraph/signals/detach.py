"""Detach: the same values, without their gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Detach(Signal):
    """``sg(x)``: stops the gradient of one tensor (any shape) for the edges that read it."""

    use: Literal["detach"] = "detach"
    of: Ref

    def shape(self, *, of: Shape) -> Shape:
        return of

    def forward(self, *, of: Tensor) -> Tensor:
        return of.detach()
