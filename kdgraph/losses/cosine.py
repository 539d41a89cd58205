"""Cosine: the student's features point where the teacher's point."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._math import unit
from kdgraph.losses._part import part
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
class Cosine(RowLoss):
    """``1 - cos(F_s, F_t)`` over the channels.

    DistilBERT: Sanh et al. 2019 (arXiv 1910.01108). Features are vectors [B, D], tokens
    [B, L, D] or maps [B, C, H, W] of equal shape; one row per sample, token or pixel. A zero
    vector has cosine 0 with every other and gets no gradient. The default reduction is the mean
    over rows.
    """

    use: Literal["cosine"] = "cosine"
    student: Ref
    teacher: Ref

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *VECTORS, *TOKENS, *MAPS)
        check_mask(mask, without_channels(student))

    def parts(self, *, student: Any, teacher: Any, **_: Any) -> dict[str, partial[Any]]:
        return {"student": partial(directions, student), "teacher": partial(directions, teacher)}

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        return 1 - (student * teacher).sum(class_dim(tuple(student.shape)))


@part
def directions(x: Tensor) -> Tensor:
    """Each vector of channels at length 1, in the shape of the features."""
    return unit(x, class_dim(tuple(x.shape)))
