"""Top-k: KL over the teacher's likeliest classes, with all else in one bucket."""

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
from kdgraph.spec.types import Count

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class TopK(RowLoss):
    """``tau**2 * KL(p || q)`` over the teacher's ``k`` likeliest classes and one for all others.

    Sparse logit distillation as in Peng et al. 2024 (arXiv 2410.16215), here from whole rows of
    logits. ``p = softmax(z_t / tau)`` over all classes, q likewise of the student.

    Variants: ``tail: bucket`` (the default) adds up what is left of each side to one more class,
    so that the student is told how much it may leave to the rest; ``renormalise`` takes both
    sides given that the class is one of the k, so that what the student gives to others costs
    nothing. ``scale: false`` leaves the factor out. With k at least K it is ``soft_target``.
    Logits are [B, K], [B, L, K] or maps [B, K, H, W]; one row per sample, token or pixel.
    """

    teaches_as = "logits"

    use: Literal["top_k"] = "top_k"
    student: Ref
    teacher: Ref
    k: Count = 64
    tail: Literal["bucket", "renormalise"] = "bucket"
    tau: Tau = 1.0
    scale: bool = True

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_classes(student, teacher)
        check_mask(mask, without_channels(student))

    def parts(self, *, student: Any, teacher: Any, tau: Any, **_: Any) -> dict[str, partial[Any]]:
        return tempered(student, teacher, tau)

    def rows(self, *, student: Tensor, teacher: Tensor, tau: Tensor | float) -> Tensor:
        dim = class_dim(tuple(student.shape))
        if self.k < student.shape[dim]:
            top = teacher.topk(self.k, dim).indices
            student, teacher = (self._kept(x, top, dim) for x in (student, teacher))
        kl = divergence(teacher, student).sum(dim)
        return kl * per_sample(tau, kl) ** 2 if self.scale else kl

    def _kept(self, logs: Tensor, top: Tensor, dim: int) -> Tensor:
        """Logarithms of the classes that are kept, and of what they leave."""
        from torch import cat

        nothing = -float("inf")
        kept = logs.gather(dim, top)
        if self.tail == "renormalise":
            some = (kept > nothing).any(dim, keepdim=True)
            return kept.where(some, 0).log_softmax(dim).where(some, nothing)
        rest = logs.scatter(dim, top, nothing)
        some = (rest > nothing).any(dim, keepdim=True)
        whole = rest.where(some, 0).logsumexp(dim, keepdim=True).where(some, nothing)
        return cat([kept, whole], dim)
