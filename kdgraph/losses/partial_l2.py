"""Partial squared error: where both sides are off, a student further off is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses.base import (
    MAPS,
    TOKENS,
    VECTORS,
    RowLoss,
    check_mask,
    same_features,
    without_channels,
)
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class PartialL2(RowLoss):
    """``mean_c (F_t - F_s)**2``, without the channels where ``F_s <= F_t <= 0``.

    Heo et al. 2019 (arXiv 1904.01866), the distance of their overhaul of feature distillation
    (OFD). Both sides are features *before* the ReLU, which makes 0 of all that is left out:
    vectors [B, D], tokens [B, L, D] or maps [B, C, H, W] of equal shape; one row per sample,
    token or pixel. Their teacher goes through the signal ``margin_relu`` first, their student
    through a 1 x 1 convolution, the link's adapter.

    ``reduction: mean`` (the default) is the mean over channels and rows. The paper's distance is
    the sum over a sample's channels and positions, C * H * W times that; ``batchmean`` with
    ``weight: C`` is its mean over the samples.
    """

    use: Literal["partial_l2"] = "partial_l2"
    student: Ref
    teacher: Ref

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *VECTORS, *TOKENS, *MAPS)
        check_mask(mask, without_channels(student))

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        counts = (student > teacher) | (teacher > 0)
        gap = (teacher - student).where(counts, 0)
        return gap.square().mean(class_dim(tuple(student.shape)))
