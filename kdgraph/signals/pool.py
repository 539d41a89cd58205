"""Pool: one vector per sample, the mean over all positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, class_dim, rank

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Pool(Signal):
    """The mean of each channel over the positions: [B, C, H, W] or [B, L, C] to [B, C].

    Global average pooling; the adapter of this name does the same to a student.
    """

    use: Literal["pool"] = "pool"
    of: Ref

    def shape(self, *, of: Shape) -> Shape:
        rank("pool averages maps [B, C, H, W] or tokens [B, L, C]: the tensor", of, 3, 4, 5)
        return (of[0], of[class_dim(of)])

    def forward(self, *, of: Tensor) -> Tensor:
        from kdgraph.signals._module import wide

        dim = class_dim(tuple(of.shape))
        return wide(of).movedim(dim, 1).flatten(2).mean(2)
