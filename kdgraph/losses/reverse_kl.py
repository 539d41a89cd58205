"""Reverse KL: the student keeps to what the teacher holds likely."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._math import divergence
from kdgraph.losses._part import tempered
from kdgraph.losses.base import (
    RowLoss,
    check_mask,
    per_sample,
    same_classes,
    without_channels,
)
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from kdgraph.losses._closed import Logits


@register_loss
class ReverseKL(RowLoss):
    """``tau**2 * KL(softmax(z_s / tau) || softmax(z_t / tau))``: soft_target the other way round.

    Gu et al. 2024, MiniLLM (arXiv 2306.08543), here between given rows of logits: [B, K],
    [B, L, K] or maps [B, K, H, W]; one row per sample, token or pixel. It asks the student to
    leave out what the teacher holds unlikely, where soft_target asks it to cover all that the
    teacher holds likely.

    Variants: ``tau_student`` sets another temperature on the student's side (the factor stays
    the square of ``tau``); ``scale: false`` leaves the factor out.

    A class whose logit is -inf is impossible: on the student's side it costs nothing but the
    teacher's own probability; on the teacher's side alone the value is inf, as it should be, and
    there is no gradient that would lead out of it.
    """

    teaches_as = "logits"

    use: Literal["reverse_kl"] = "reverse_kl"
    student: Ref
    teacher: Ref
    tau: Tau = 1.0
    tau_student: Tau | None = None
    scale: bool = True

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_classes(student, teacher)
        check_mask(mask, without_channels(student))

    def parts(
        self, *, student: Any, teacher: Any, tau: Any, tau_student: Any = None, **_: Any
    ) -> dict[str, partial[Any]]:
        return tempered(student, teacher, tau, tau_student)

    def rows(self, *, student: Tensor, teacher: Tensor, tau: Tensor | float, **_: Any) -> Tensor:
        kl = divergence(student, teacher).sum(class_dim(tuple(student.shape)))
        return kl * per_sample(tau, kl) ** 2 if self.scale else kl

    def closed_form(
        self,
        *,
        student: Logits,
        teacher: Logits,
        tau: Tensor | float,
        tau_student: Tensor | float | None = None,
    ) -> tuple[Tensor, Callable[[Tensor], None]]:
        q, p = student.at(tau if tau_student is None else tau_student), teacher.at(tau)
        factor = student.by_row(tau) ** 2 if self.scale else 1.0
        prob, gap = q.prob, q.log - p.log
        kl = (gap * prob).sub_(prob).add_(p.prob).sum(1)  # as in divergence
        return kl * factor, lambda grad: q.add_prob(prob, gap, grad * factor)
