"""Normalised L2: the squared distance of two vectors at length 1."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses.base import (
    MAPS,
    TOKENS,
    VECTORS,
    RowLoss,
    check_mask,
    same_features,
    without_channels,
)
from kdgraph.losses.cosine import directions
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class NormalisedL2(RowLoss):
    """``sum_c (F_s / ||F_s|| - F_t / ||F_t||)**2``.

    The loss of network grafting, Shen et al. 2021 (arXiv 2012.04915), on logits, with
    ``reduction: sum``. It is twice the edge ``cosine``, but exactly 0, and with all digits, where
    both sides are nearly equal. Vectors are [B, D], tokens [B, L, D] or maps [B, C, H, W] of equal
    shape; one row per sample, token or pixel. A vector no longer than 1e-12 counts as 0 and gets no
    gradient.
    """

    use: Literal["normalised_l2"] = "normalised_l2"
    student: Ref
    teacher: Ref

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *VECTORS, *TOKENS, *MAPS)
        check_mask(mask, without_channels(student))

    def parts(self, *, student: Any, teacher: Any, **_: Any) -> dict[str, partial[Any]]:
        return {"student": partial(directions, student), "teacher": partial(directions, teacher)}

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().sum(class_dim(tuple(student.shape)))
