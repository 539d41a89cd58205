"""Pool: one vector per sample, the mean over all positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, check_positions, class_dim, rank

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Pool(Signal):
    """The mean of each channel over the positions: [B, C, H, W] or [B, L, C] to [B, C].

    Global average pooling; the adapter of this name does the same to a student. With ``mask``,
    [B, L] or [B, H, W], only the positions count where it is not 0, as sentence encoders average
    their tokens; where there are none, the mean is 0.
    """

    use: Literal["pool"] = "pool"
    of: Ref
    mask: Ref | None = None

    def shape(self, *, of: Shape, mask: Shape | None = None) -> Shape:
        rank("pool averages maps [B, C, H, W] or tokens [B, L, C]: the tensor", of, 3, 4, 5)
        if mask is not None:
            check_positions(mask, of)
        return (of[0], of[class_dim(of)])

    def forward(self, *, of: Tensor, mask: Tensor | None = None) -> Tensor:
        from kdgraph.signals._module import inside, wide

        dim = class_dim(tuple(of.shape))
        rows = wide(of).movedim(dim, 1).flatten(2)
        if mask is None:
            return rows.mean(2)
        counts = inside(mask, of).expand_as(of).movedim(dim, 1).flatten(2)
        return rows.where(counts, 0).sum(2) / counts.sum(2).clamp(min=1)
