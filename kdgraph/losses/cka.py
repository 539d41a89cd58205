"""CKA: similarities between samples agree, up to rotation and scale of the features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses._math import length, unit
from kdgraph.losses.base import Loss, same_samples
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class CKA(Loss):
    """``1 - <K_s, K_t> / (||K_s|| ||K_t||)``, ``K = F F^T`` of features centred over the batch.

    Linear centred kernel alignment: Kornblith et al. 2019 (arXiv 1905.00414), as a loss. Features
    are vectors [B, D], tokens [B, L, D] or maps [B, C, H, W], flattened to one row per sample; the
    sides need only the same B. Where all samples of a side are equal the value is 1, without
    gradient.
    """

    use: Literal["cka"] = "cka"
    student: Ref
    teacher: Ref

    def across_batch(self, student: Shape) -> bool:
        return True

    def shapes(self, *, student: Shape, teacher: Shape) -> None:
        same_samples(student, teacher)

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        return 1 - (_aligned(student) * _aligned(teacher)).sum()


def _aligned(x: Tensor) -> Tensor:
    """[B * B]: similarities between samples as one vector of length 1."""
    from torch import finfo

    rows = x.flatten(1)
    rows = rows / rows.detach().abs().amax().clamp_min(1e-30)  # squares of squares stay in range
    centred = rows - rows.mean(0)
    # the mean of equal rows is off by some rounding; what is left then is no direction
    rounding = 8 * finfo(x.dtype).eps * length(rows.detach().flatten(), 0)
    return unit((centred @ centred.T).flatten(), 0, short=rounding.square())
