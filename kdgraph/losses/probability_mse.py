"""Squared distance of probabilities: softmax outputs compared as they are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._part import tempered
from kdgraph.losses.base import RowLoss, check_mask, same_classes, without_channels
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class ProbabilityMSE(RowLoss):
    """``sum_k (p_k - q_k)**2``, ``p = softmax(z_t / tau)`` and q of the student.

    Distillation of CTC outputs in Yoon et al. 2021, TutorNet (arXiv 2008.00671): a frame on which
    the teacher is all but certain makes a Kullback-Leibler divergence as large as the student is
    wrong, and this at most 2. Summed over classes, then reduced over rows; no factor of tau.

    Logits are [B, K], [B, L, K] or maps [B, K, H, W]; one row per sample, token or pixel. Either
    side may mask classes by -inf.
    """

    teaches_as = "logits"

    use: Literal["probability_mse"] = "probability_mse"
    student: Ref
    teacher: Ref
    tau: Tau = 1.0

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_classes(student, teacher)
        check_mask(mask, without_channels(student))

    def parts(self, *, student: Any, teacher: Any, tau: Any, **_: Any) -> dict[str, partial[Any]]:
        return tempered(student, teacher, tau)

    def rows(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        return (teacher.exp() - student.exp()).square().sum(class_dim(tuple(student.shape)))
