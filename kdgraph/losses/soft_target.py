"""Soft target: the student learns the teacher's tempered class distribution."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._math import divergence
from kdgraph.losses._part import tempered
from kdgraph.losses.base import (
    TOKENS,
    VECTORS,
    RowLoss,
    check_mask,
    per_sample,
    same_classes,
    without_channels,
)
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim, rank
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from kdgraph.losses._closed import Logits


@register_loss
class SoftTarget(RowLoss):
    """``tau**2 * KL(softmax(z_t / tau) || softmax(z_s / tau))``.

    Hinton, Vinyals, Dean 2015 (arXiv 1503.02531). Logits are [B, K], [B, L, K] or maps
    [B, K, H, W]; one row per sample, token or pixel.

    Variants: ``tau_student`` sets another temperature on the student's side (the factor stays
    the square of ``tau``); ``scale: false`` leaves the factor out. ``reduction: mean`` (the
    default) is the mean over rows, which for [B, K] is torch's ``batchmean``; ``element``
    divides by K on top, as ``F.kl_div(reduction="mean")`` does; ``batchmean`` is the sum over
    the rows divided by B, also for tokens and maps.

    ``fused_head: true`` computes it from the hidden states that two linear heads read, a chunk of
    rows at a time: where the vocabulary is large, logits of a whole batch take most of the memory.
    Both logits have to be a linear layer's own output, which nothing else reads and which is no
    output of the step. One side may then have more classes, behind those of the other: they are
    masked. Logits are [B, K] or [B, L, K]; the weight is one number.

    A class whose logit is -inf is impossible: on the teacher's side it costs nothing but the
    student's own probability; on the student's side alone the value is inf, as it should be.
    """

    teaches_as = "logits"

    use: Literal["soft_target"] = "soft_target"
    student: Ref
    teacher: Ref
    tau: Tau = 4.0
    tau_student: Tau | None = None
    scale: bool = True
    fused_head: bool = False
    reduction: Literal["mean", "sum", "batchmean", "element"] = "mean"  # type: ignore[assignment]

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        if self.fused_head:
            for side, shape in (("student", student), ("teacher", teacher)):
                rank(f"{side} logits of a fused head", shape, *VECTORS, *TOKENS)
            teacher = (*teacher[:-1], student[-1])
        same_classes(student, teacher)
        check_mask(mask, without_channels(student))

    def parts(
        self, *, student: Any, teacher: Any, tau: Any, tau_student: Any = None, **_: Any
    ) -> dict[str, partial[Any]]:
        return tempered(student, teacher, tau, tau_student)

    def rows(self, *, student: Tensor, teacher: Tensor, tau: Tensor | float, **_: Any) -> Tensor:
        dim = class_dim(tuple(student.shape))
        classes = min(student.shape[dim], teacher.shape[dim])
        if max(student.shape[dim], teacher.shape[dim]) > classes:
            student, teacher = (x[..., :classes].log_softmax(-1) for x in (student, teacher))
        kl = divergence(teacher, student).sum(dim)
        return kl * self._factor(per_sample(tau, kl), classes)

    def _factor(self, tau: Tensor | float, classes: int) -> Tensor | float:
        factor = tau**2 if self.scale else 1.0
        return factor / classes if self.reduction == "element" else factor

    def closed_form(
        self,
        *,
        student: Logits,
        teacher: Logits,
        tau: Tensor | float,
        tau_student: Tensor | float | None = None,
    ) -> tuple[Tensor, Callable[[Tensor], None]]:
        q, p = student.at(tau if tau_student is None else tau_student), teacher.at(tau)
        factor = self._factor(student.by_row(tau), student.z.shape[1])
        kl = (p.log - q.log).mul_(p.prob).sub_(p.prob).add_(q.prob).sum(1)  # as in divergence
        rise = q.prob - p.prob
        # adds up to 0, also where one class has all but what float32 can tell from 1
        rise.addcmul_(q.prob, rise.sum(1, keepdim=True), value=-1)
        return kl * factor, lambda grad: q.add(rise, grad * factor)
