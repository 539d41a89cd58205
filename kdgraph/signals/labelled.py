"""Labelled: where there is a label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Labelled(Signal):
    """``of != ignore_index``: a mask of the shape of the labels, true where one is to count.

    Padding and unknown labels, written as ``ignore_index``, are left out by a loss that reads
    this as its ``mask``. ``cross_entropy`` on class indices does that by itself.
    """

    use: Literal["labelled"] = "labelled"
    of: Ref
    ignore_index: int = -100

    def shape(self, *, of: Shape) -> Shape:
        return of

    def forward(self, *, of: Tensor) -> Tensor:
        return of != self.ignore_index
