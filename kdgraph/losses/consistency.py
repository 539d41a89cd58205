"""Consistency: two calls of one network, with dropout of their own, have to agree."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._part import log_probabilities
from kdgraph.losses.base import RowLoss, check_mask, same_classes, without_channels
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class Consistency(RowLoss):
    """``1/2 sum_k (p_k - q_k) (log p_k - log q_k)``: the symmetric Kullback-Leibler divergence.

    Liang et al. 2021, R-Drop (arXiv 2106.14448): p and q are softmaxes of two calls of the student
    on the same input, and the gradient reaches **both**, unlike one into a teacher's side.
    ``distance: l2`` is ``sum_k (p_k - q_k)**2`` in its place, as mean teachers use it (Tarvainen,
    Valpola 2017, arXiv 1703.01780). No factor of tau.

    Logits are [B, K], [B, L, K] or maps [B, K, H, W]; one row per sample, token or pixel. Where
    the two agree, value and gradient are exactly 0. A class may be masked by -inf on both sides;
    on one alone the symmetric divergence is inf, with no gradient that would lead out of it.
    """

    use: Literal["consistency"] = "consistency"
    student: Ref
    other: Ref
    distance: Literal["symmetric_kl", "l2"] = "symmetric_kl"
    tau: Tau = 1.0

    def shapes(self, *, student: Shape, other: Shape, mask: Shape | None = None) -> None:
        same_classes(student, other)
        check_mask(mask, without_channels(student))

    def parts(self, *, student: Any, other: Any, tau: Any, **_: Any) -> dict[str, partial[Any]]:
        return {
            "student": partial(log_probabilities, student, tau),
            "other": partial(log_probabilities, other, tau),
        }

    def rows(self, *, student: Tensor, other: Tensor, **_: Any) -> Tensor:
        dim = class_dim(tuple(student.shape))
        apart = student.exp() - other.exp()
        if self.distance == "l2":
            return apart.square().sum(dim)
        never, never_other = student == -float("inf"), other == -float("inf")
        gap = (student - other).masked_fill(never | never_other, 0)
        return (apart * gap).masked_fill(never ^ never_other, float("inf")).sum(dim) / 2
