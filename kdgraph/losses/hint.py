"""Hint: the student's features match the teacher's, element by element."""

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
class Hint(RowLoss):
    """``mean (F_s - F_t)**2``.

    FitNets: Romero et al. 2014 (arXiv 1412.6550). Features are vectors [B, D], tokens [B, L, D]
    or maps [B, C, H, W] of equal shape (a link's adapter is the regressor of the paper); one row
    per sample, token or pixel.

    Variants: ``reduction: mean`` (the default) is the mean over all elements; ``batchmean`` is
    the squared distance of each sample, averaged over the samples, which is twice the paper's;
    ``sum`` adds up all squares.
    """

    use: Literal["hint"] = "hint"
    student: Ref
    teacher: Ref

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *VECTORS, *TOKENS, *MAPS)
        check_mask(mask, without_channels(student))

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        dim = class_dim(tuple(student.shape))
        square = (student - teacher).square()
        return square.mean(dim) if self.reduction == "mean" else square.sum(dim)
