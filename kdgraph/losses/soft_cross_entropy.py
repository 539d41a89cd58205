"""Soft cross-entropy: a target distribution that something else has made."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._math import divergence
from kdgraph.losses._part import log_probabilities
from kdgraph.losses.base import (
    MAPS,
    TOKENS,
    VECTORS,
    RowLoss,
    check_mask,
    per_sample,
    without_channels,
)
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, rank, show
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from kdgraph.losses._closed import Logits


@register_loss
class SoftCrossEntropy(RowLoss):
    """``-sum_k q_k log softmax(z / tau)_k`` for a target distribution ``q``.

    The loss of Hinton, Vinyals, Dean 2015 (arXiv 1503.02531) with the teacher's side left open:
    the target is probabilities, from a signal or the batch, and constant for autograd; ``tau`` is
    the student's temperature alone. Logits are [B, K], [B, L, K] or maps [B, K, H, W], the target
    has their shape, and there is one row per sample, token or pixel.

    Variants: ``variant: kl`` is KL(q || p), less the entropy of the target, with equal gradients;
    what is below 0 in the target then counts as 0, while ``cross_entropy`` (the default) takes
    it as it is. ``scale: tau`` and ``scale: tau2`` multiply by ``tau`` or its square; by default
    nothing does. ``reduction: mean`` (the default) is the mean over rows; ``element`` divides by
    K on top, as ``F.kl_div(reduction="mean")`` does.

    A class that the target leaves out costs nothing, also where its logit is -inf.
    """

    teaches_as = "probabilities"

    use: Literal["soft_cross_entropy"] = "soft_cross_entropy"
    student: Ref
    target: Ref
    tau: Tau = 1.0
    variant: Literal["cross_entropy", "kl"] = "cross_entropy"
    scale: Literal["none", "tau", "tau2"] = "none"
    reduction: Literal["mean", "sum", "batchmean", "element"] = "mean"  # type: ignore[assignment]

    def shapes(self, *, student: Shape, target: Shape, mask: Shape | None = None) -> None:
        rank("student logits", student, *VECTORS, *TOKENS, *MAPS)
        rows = without_channels(student)
        if target != student:
            instead = "; for class indices there is `use: cross_entropy`" if target == rows else ""
            raise ShapeMismatch(
                f"the target {show(target)} must have the shape of the student logits "
                f"{show(student)}{instead}"
            )
        check_mask(mask, rows)

    def parts(self, *, student: Any, tau: Any, **_: Any) -> dict[str, partial[Any]]:
        return {"student": partial(log_probabilities, student, tau)}

    def rows(self, *, student: Tensor, target: Tensor, tau: Tensor | float) -> Tensor:
        dim = class_dim(tuple(student.shape))
        target = target.detach().to(student.dtype)
        if self.variant == "kl":
            cost = divergence(target.clamp_min(0).log(), student).sum(dim)
        else:
            cost = -(target * student).where(target != 0, 0).sum(dim)
        return cost * self._factor(per_sample(tau, cost), student.shape[dim])

    def _factor(self, tau: Tensor | float, classes: int) -> Tensor | float:
        factor = {"none": 1.0, "tau": tau, "tau2": tau**2}[self.scale]
        return factor / classes if self.reduction == "element" else factor

    def closed_form(
        self, *, student: Logits, target: Tensor, tau: Tensor | float
    ) -> tuple[Tensor, Callable[[Tensor], None]]:
        p, q = student.at(tau), student.in_rows(target.detach().to(student.z.dtype))
        factor = self._factor(student.by_row(tau), student.z.shape[1])
        if self.variant == "kl":
            log_q = q.clamp_min(0).log()
            q = log_q.exp()  # of the rounded logarithm, as in divergence, for the same digits
            cost = (log_q.where(q > 0, 0) - p.log).mul_(q).sub_(q).add_(p.prob).sum(1)
        else:
            cost = -(q * p.log).sum(1)
        rise = p.prob - q
        # adds up to 0, also where one class has all but what float32 can tell from 1
        rise.addcmul_(p.prob, rise.sum(1, keepdim=True), value=-1)
        return cost * factor, lambda grad: p.add(rise, grad * factor)
