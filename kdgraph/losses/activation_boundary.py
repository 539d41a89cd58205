"""Activation boundary: the student's neurons are active where the teacher's are, by a margin."""

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
from kdgraph.spec.types import Positive

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class ActivationBoundary(RowLoss):
    """``mean max(0, m - F_s)**2 where F_t > 0, max(0, m + F_s)**2 elsewhere``.

    Heo et al. 2019 (arXiv 1811.03233), equation 5: how far each neuron of the student is from
    the right side of its boundary, with a margin ``m``. Both sides are features *before* the
    ReLU: vectors [B, D], tokens [B, L, D] or maps [B, C, H, W] of equal shape; one row per
    sample, token or pixel. Only the signs of the teacher count.
    """

    use: Literal["activation_boundary"] = "activation_boundary"
    student: Ref
    teacher: Ref
    margin: Positive = 1.0

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *VECTORS, *TOKENS, *MAPS)
        check_mask(mask, without_channels(student))

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        towards = student.where(teacher > 0, -student)
        short = (self.margin - towards).relu()
        return short.square().mean(class_dim(tuple(student.shape)))
