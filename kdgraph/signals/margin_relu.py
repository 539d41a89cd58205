"""Margin ReLU: what a neuron says when it is off is cut at how it usually says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, check_positions, class_dim, rank

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class MarginReLU(Signal):
    """``max(F, m_c)``, ``m_c`` the mean of channel c's values below 0.

    Heo et al. 2019 (arXiv 1904.01866), for a teacher's features before the ReLU, as the target
    of ``partial_l2``: vectors [B, D], tokens [B, L, D] or maps [B, C, H, W]. Others take the
    mean from the statistics of the batch norm before; here it is that of the batch, so a sample
    depends a little on those beside it. A channel that is never below 0 is cut at 0, which leaves
    it as it is. With ``mask`` ([B], or the positions: [B, L] or [B, H, W]) the mean is of what is
    inside; the ``mask`` of the loss leaves the rest out of the value, but not out of the mean.
    """

    use: Literal["margin_relu"] = "margin_relu"
    of: Ref
    mask: Ref | None = None

    def by_row(self) -> bool:
        return False

    def shape(self, *, of: Shape, mask: Shape | None = None) -> Shape:
        rank("margin_relu takes features: they", of, 2, 3, 4, 5)
        if mask is not None:
            check_positions(mask, of)
        return of

    def forward(self, *, of: Tensor, mask: Tensor | None = None) -> Tensor:
        from kdgraph.signals._module import inside, wide

        x = wide(of)
        channel = class_dim(tuple(x.shape))
        others = [d for d in range(x.dim()) if d != channel]
        below = x.clamp(max=0)
        if mask is not None:
            below = below.where(inside(mask, x), 0)
        number = (below < 0).sum(others, keepdim=True).clamp(min=1)
        return x.maximum(below.sum(others, keepdim=True) / number)
