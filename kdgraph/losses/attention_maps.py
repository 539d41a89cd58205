"""Attention maps: a transformer attends as its teacher does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses._math import divergence
from kdgraph.losses.base import RowLoss, check_mask
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, rank, show

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class AttentionMaps(RowLoss):
    """``mean_j (A_s,ij - A_t,ij)**2``, A the scores of query i for key j.

    TinyBERT: Jiao et al. 2020 (arXiv 1909.10351), which takes scores before the softmax. Scores
    are [B, heads, L, L]; one row per head and query. Keys that either side masks by -inf are left
    out, also from their number.

    Variants: ``variant: mse`` (the default) as above; ``kl`` is ``KL(softmax A_t || softmax A_s)``
    over the keys (MiniLM: Wang et al. 2020, arXiv 2002.10957). ``heads: each`` (the default) pairs
    head with head; ``mean`` averages each side over its heads, whose numbers may then differ, and
    has one row per query; scores that are averaged must not be masked by -inf.
    """

    use: Literal["attention_maps"] = "attention_maps"
    student: Ref
    teacher: Ref
    variant: Literal["mse", "kl"] = "mse"
    heads: Literal["each", "mean"] = "each"

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        for side, shape in (("student", student), ("teacher", teacher)):
            rank(f"{side} scores", shape, 4)
        per_head = 2 if self.heads == "mean" else 1
        if student[0] != teacher[0] or student[per_head:] != teacher[per_head:]:
            raise ShapeMismatch(
                f"student {show(student)} and teacher {show(teacher)} must be [B, heads, L, L] "
                f"with equal {'L' if self.heads == 'mean' else 'heads and L'}"
            )
        check_mask(mask, student[:1] + student[per_head:-1])

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        if self.heads == "mean":
            student, teacher = student.mean(1), teacher.mean(1)
        known = (student > -float("inf")) & (teacher > -float("inf"))
        if self.variant == "kl":
            some = known.any(-1, keepdim=True)  # a padded query may have no key at all
            s, t = (
                x.where(known, -float("inf")).where(some, 0).log_softmax(-1)
                for x in (student, teacher)
            )
            return divergence(t, s).sum(-1).where(some.squeeze(-1), 0)
        square = (student - teacher).where(known, 0).square().sum(-1)
        return square / known.sum(-1).clamp_min(1)
