"""Pearson: channels vary together with the teacher's, whatever their scale and shift."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from kdgraph.losses._math import pearson
from kdgraph.losses.base import MAPS, TOKENS, VECTORS, Loss, same_features, without_channels
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class Pearson(Loss):
    """``mean_c (1 - r(F_s,c, F_t,c))``, r over all samples and positions.

    PKD: Cao et al. 2022 (arXiv 2207.02039), whose squared error of features normalised per
    channel, halved, is this. Features are vectors [B, D], tokens [B, L, D] or maps [B, C, H, W]
    of equal shape. A channel that is constant on either side has correlation 0, without gradient.
    """

    use: Literal["pearson"] = "pearson"
    student: Ref
    teacher: Ref

    def across_batch(self, student: Shape) -> bool:
        # two positions of a sample alone have correlation 1 or -1, whatever they hold
        return math.prod(without_channels(student)[1:]) < 3

    def shapes(self, *, student: Shape, teacher: Shape) -> None:
        same_features(student, teacher, *VECTORS, *TOKENS, *MAPS)

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        dim = class_dim(tuple(student.shape))
        s, t = (x.movedim(dim, 0).flatten(1) for x in (student, teacher))
        return (1 - pearson(s, t, 1)).mean()
