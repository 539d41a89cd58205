"""Margin ReLU: what a neuron says when it is off is cut at how it usually says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, class_dim, rank

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class MarginReLU(Signal):
    """``max(F, m_c)``, ``m_c`` the mean of channel c's values below 0.

    Heo et al. 2019 (arXiv 1904.01866), for a teacher's features before the ReLU, as the target
    of ``partial_l2``: vectors [B, D], tokens [B, L, D] or maps [B, C, H, W]. Others take the
    mean from the statistics of the batch norm before; here it is that of the batch, so a sample
    depends a little on those beside it. A channel that is never below
    0 is cut at 0, which leaves it as it is.
    """

    use: Literal["margin_relu"] = "margin_relu"
    of: Ref

    def shape(self, *, of: Shape) -> Shape:
        rank("margin_relu takes features: they", of, 2, 3, 4, 5)
        return of

    def forward(self, *, of: Tensor) -> Tensor:
        from kdgraph.signals._module import wide

        x = wide(of)
        channel = class_dim(tuple(x.shape))
        others = [d for d in range(x.dim()) if d != channel]
        below = x.clamp(max=0)
        number = (below < 0).sum(others, keepdim=True).clamp(min=1)
        return x.maximum(below.sum(others, keepdim=True) / number)
