"""Skew KL: the divergence from a mixture that always holds a share of both sides."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from kdgraph.losses._math import towards_mixture
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
    from torch import Tensor


@register_loss
class SkewKL(RowLoss):
    """``tau**2 * KL(p || alpha p + (1 - alpha) q)``.

    Ko et al. 2024, DistiLLM (arXiv 2402.03898), after Lee 1999; ``p = softmax(z_t / tau)``, q
    likewise of the student. The share ``alpha`` of p keeps the ratio below ``1 / alpha``, so that
    gradients stay bounded where the student gives a class nearly nothing.

    Variants: ``variant: forward`` (the default) as above; ``reverse`` is
    ``KL(q || (1 - alpha) p + alpha q)``, the paper's skew reverse KL. ``scale: false`` leaves the
    factor out. Logits are [B, K], [B, L, K] or maps [B, K, H, W]; one row per sample, token or
    pixel. The value is finite whatever classes either side masks by -inf.
    """

    teaches_as = "logits"

    use: Literal["skew_kl"] = "skew_kl"
    student: Ref
    teacher: Ref
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1
    variant: Literal["forward", "reverse"] = "forward"
    tau: Tau = 1.0
    scale: bool = True

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_classes(student, teacher)
        check_mask(mask, without_channels(student))

    def parts(self, *, student: Any, teacher: Any, tau: Any, **_: Any) -> dict[str, partial[Any]]:
        return tempered(student, teacher, tau)

    def rows(self, *, student: Tensor, teacher: Tensor, tau: Tensor | float) -> Tensor:
        first, second = (teacher, student) if self.variant == "forward" else (student, teacher)
        kl = towards_mixture(first, second, self.alpha).sum(class_dim(tuple(student.shape)))
        return kl * per_sample(tau, kl) ** 2 if self.scale else kl
