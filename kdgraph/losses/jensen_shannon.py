"""Jensen-Shannon: student and teacher both compared with a mixture of the two."""

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
class JensenShannon(RowLoss):
    """``tau**2 * (beta * KL(p || m) + (1 - beta) * KL(q || m))``, ``m = beta p + (1 - beta) q``.

    Generalised Jensen-Shannon divergence of Agarwal et al. 2024, GKD (arXiv 2306.13649);
    ``p = softmax(z_t / tau)``, q likewise of the student. ``beta: 0.5`` is the divergence of Lin
    1991. Divided by beta it tends to KL(p || q) for beta -> 0; TRL's ``GKDTrainer`` takes the two
    limits themselves for 0 and 1, for which there are ``soft_target`` and ``reverse_kl``.

    Logits are [B, K], [B, L, K] or maps [B, K, H, W]; one row per sample, token or pixel. The
    value is finite whatever classes either side masks by -inf. ``scale: false`` leaves the factor
    out.
    """

    teaches_as = "logits"

    use: Literal["jensen_shannon"] = "jensen_shannon"
    student: Ref
    teacher: Ref
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    tau: Tau = 1.0
    scale: bool = True

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_classes(student, teacher)
        check_mask(mask, without_channels(student))

    def parts(self, *, student: Any, teacher: Any, tau: Any, **_: Any) -> dict[str, partial[Any]]:
        return tempered(student, teacher, tau)

    def rows(self, *, student: Tensor, teacher: Tensor, tau: Tensor | float) -> Tensor:
        dim = class_dim(tuple(student.shape))
        kl = self.beta * towards_mixture(teacher, student, self.beta).sum(dim)
        kl = kl + (1 - self.beta) * towards_mixture(student, teacher, 1 - self.beta).sum(dim)
        return kl * per_sample(tau, kl) ** 2 if self.scale else kl
