"""Ranking: of any two classes the student prefers the one that the teacher does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses.base import RowLoss, check_mask, same_classes, without_channels
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim
from kdgraph.spec.types import NonNegative

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class Ranking(RowLoss):
    """``mean over pairs with z_t,k > z_t,l of softplus(-(z_s,k - z_s,l))``.

    RankNet's loss (Burges et al. 2005, 10.1145/1102351.1102363) with the teacher's order in the
    place of judgements.

    Variants: ``variant: logistic`` (the default) as above, on logits; ``hinge`` is
    ``max(0, margin - (q_k - q_l))`` on the student's probabilities. A row whose teacher logits are
    all equal has no pairs and the value 0. Logits are [B, K], [B, L, K] or maps [B, K, H, W]; one
    row per sample, token or pixel, each of K * K pairs, so for few classes.
    """

    use: Literal["ranking"] = "ranking"
    student: Ref
    teacher: Ref
    variant: Literal["logistic", "hinge"] = "logistic"
    margin: NonNegative = 0.1

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_classes(student, teacher)
        check_mask(mask, without_channels(student))

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        from torch.nn.functional import softplus

        dim = class_dim(tuple(student.shape))
        own, known = student.movedim(dim, -1), teacher.movedim(dim, -1)
        pair = known.unsqueeze(-1) > known.unsqueeze(-2)
        own = own.softmax(-1) if self.variant == "hinge" else own
        gap = own.unsqueeze(-1) - own.unsqueeze(-2)
        # where: two impossible classes of the student's have no difference
        gap = gap.where(pair & ~gap.isnan(), 0)
        each = (self.margin - gap).relu() if self.variant == "hinge" else softplus(-gap)
        pairs = pair.sum((-1, -2))
        return each.where(pair, 0).sum((-1, -2)) / pairs.clamp_min(1)
