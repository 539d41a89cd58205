"""Soft target: the student learns the teacher's tempered class distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses.base import RowLoss, per_sample, same_classes
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class SoftTarget(RowLoss):
    """``tau**2 * KL(softmax(z_t / tau) || softmax(z_s / tau))``.

    Hinton, Vinyals, Dean 2015 (1503.02531). Logits are [B, K], [B, L, K] or [B, K, H, W]; one
    row per sample, token or pixel. ``tau_student`` sets another temperature on the student's
    side (the factor stays the square of ``tau``); ``scale: false`` leaves the factor out.
    ``reduction: mean`` is the mean over rows (torch's ``batchmean`` for [B, K]); ``element``
    divides by K on top, as ``F.kl_div(reduction="mean")`` does.
    """

    use: Literal["soft_target"] = "soft_target"
    student: Ref
    teacher: Ref
    tau: Tau = 4.0
    tau_student: Tau | None = None
    scale: bool = True
    reduction: Literal["mean", "sum", "element"] = "mean"  # type: ignore[assignment]

    def shapes(self, *, student: Shape, teacher: Shape, **_: Shape) -> None:
        same_classes(student, teacher)

    def rows(  # type: ignore[override]
        self,
        *,
        student: Tensor,
        teacher: Tensor,
        tau: Tensor | float,
        tau_student: Tensor | float | None = None,
    ) -> Tensor:
        dim = class_dim(tuple(student.shape))
        t = per_sample(tau, teacher)
        s = t if tau_student is None else per_sample(tau_student, student)
        log_q = (student / s).log_softmax(dim)
        log_p = (teacher / t).log_softmax(dim)
        kl = divergence(log_p, log_q).sum(dim)
        factor = per_sample(tau, kl) ** 2 if self.scale else 1.0
        if self.reduction == "element":
            factor = factor / student.shape[dim]
        return kl * factor


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The terms of KL(p || q) in Bregman form, ``p (log p - log q) - p + q``, each >= 0.

    The extra ``q - p`` sums to zero; it makes the sum insensitive to rounding of the two
    normalisers, so that a high temperature or a nearly equal student keeps its digits.
    A class of probability 0 on the teacher's side contributes ``q``, never nan.
    """
    p = log_p.exp()
    gap = (log_p - log_q).where(p > 0, 0)
    return p * gap - p + log_q.exp()
