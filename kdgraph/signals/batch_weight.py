"""Batch weight: values as weights whose mean over the batch is 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, show
from kdgraph.spec.steer import Weight

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class BatchWeight(Signal):
    """``x_i**g / mean_j x_j**g``: who has more counts more, and the batch as much as before.

    ``g``, the ``exponent``, may move: at 0 all weigh 1, whatever they are. Over ``certainty`` it is
    a reading of the entropy adjustment of BookKD (Zhu et al. 2023, 10.1016/j.knosys.2023.110916),
    a reconstruction. ``x`` is [B] or the rows [B, L] or [B, H, W]; rows outside ``mask`` ([B], or
    of the shape of ``x``) take no part in the mean and weigh 0. Values below 0 count as 0. Where
    all are 0, all weigh 1. The weights are constants for autograd.

    The mean is that of the batch at hand, of all its parts where several processes share it.
    """

    use: Literal["batch_weight"] = "batch_weight"
    of: Ref
    exponent: Weight = 1.0
    mask: Ref | None = None

    def by_row(self) -> bool:
        return False

    def shape(self, *, of: Shape, mask: Shape | None = None) -> Shape:
        if not of:
            raise ShapeMismatch("batch_weight needs one value per sample or row, not one number")
        if mask is not None and (not mask or mask != of[: len(mask)]):
            raise ShapeMismatch(f"mask {show(mask)} fits neither [B] nor {show(of)}")
        return of

    def forward(
        self, *, of: Tensor, exponent: Tensor | float, mask: Tensor | None = None
    ) -> Tensor:
        from torch import ones_like

        from kdgraph.signals._module import lined_up, wide

        x = wide(of).detach()
        there = ones_like(x) if mask is None else lined_up(mask != 0, x).expand_as(x).to(x.dtype)
        # where: a row left out may hold anything
        power = x.where(there != 0, 0).clamp_min(0).pow(lined_up(exponent, x)) * there
        largest = power.amax()
        share = power / largest.where(largest > 0, 1)  # so that the sum is within range
        mean = share.sum() / there.sum().clamp_min(1)
        return (share / mean.where(mean > 0, 1)).where(mean > 0, there)
