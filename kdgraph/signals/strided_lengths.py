"""Strided lengths: how long sequences are behind layers that take several positions as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, rank
from kdgraph.spec.types import Count

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class StridedLengths(Signal):
    """``ceil(lengths / stride)`` [B]: the lengths of a network's output from those of its input.

    Rounded up, as a convolution of odd width k, padded by (k - 1) / 2, and any chain of such
    does; ``stride`` is the product of theirs.
    """

    use: Literal["strided_lengths"] = "strided_lengths"
    of: Ref
    stride: Annotated[Count, Field(examples=[2])]

    def shape(self, *, of: Shape) -> Shape:
        rank("strided_lengths needs lengths [B]: they", of, 1)
        return of

    def forward(self, *, of: Tensor) -> Tensor:
        return (of + self.stride - 1).div(self.stride, rounding_mode="floor")
