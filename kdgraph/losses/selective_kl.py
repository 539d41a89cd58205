"""Selective KL: each sample's soft target counts by how far the teacher is trusted with it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._math import divergence
from kdgraph.losses._part import tempered
from kdgraph.losses.base import (
    RowLoss,
    check_mask,
    over_rows,
    per_sample,
    same_classes,
    without_channels,
)
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, show
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class SelectiveKL(RowLoss):
    """``tau**2 * m_i KL(p_i || q_i)``, ``p = softmax(z_t / tau)``, q of the student, m a trust.

    CCSKD: Gou et al. 2023 (10.1109/TCDS.2022.3232569), where ``m = 2`` for samples that the
    teacher gets right, 1 for others, less in later epochs. ``trust`` is [B], or of the shape of
    the rows ([B, L], [B, H, W]); it has no gradient. Logits are [B, K], [B, L, K] or maps
    [B, K, H, W]; one row per sample, token or pixel.

    Variants: ``variant: clean`` (the default) as above, the same as ``soft_target`` with the trust
    as its weight; ``code`` is the authors' program, which multiplies the target and the *logarithm*
    of the prediction by m: ``m (log m - H(p) + m CE(p, q))``. It may be negative, and its gradient
    grows with ``m**2``: a sample that the teacher gets right then counts four times, not twice.
    """

    teaches_as = "logits"

    use: Literal["selective_kl"] = "selective_kl"
    student: Ref
    teacher: Ref
    trust: Ref
    variant: Literal["clean", "code"] = "clean"
    tau: Tau = 1.0

    def shapes(
        self, *, student: Shape, teacher: Shape, trust: Shape, mask: Shape | None = None
    ) -> None:
        same_classes(student, teacher)
        rows = without_channels(student)
        if not trust or trust != rows[: len(trust)]:
            raise ShapeMismatch(f"trust {show(trust)} fits neither [B] nor the rows {show(rows)}")
        check_mask(mask, rows)

    def parts(self, *, student: Any, teacher: Any, tau: Any, **_: Any) -> dict[str, partial[Any]]:
        return tempered(student, teacher, tau)

    def rows(
        self, *, student: Tensor, teacher: Tensor, trust: Tensor, tau: Tensor | float
    ) -> Tensor:
        dim = class_dim(tuple(student.shape))
        kl = divergence(teacher, student).sum(dim)
        m = over_rows(trust.detach(), kl).to(kl.dtype)
        value = m * kl if self.variant == "clean" else _of_program(teacher, student, m, dim)
        return value * per_sample(tau, value) ** 2


def _of_program(log_p: Tensor, log_q: Tensor, m: Tensor, dim: int) -> Tensor:
    p = log_p.exp()
    entropy, cross = (-(p * x).where(p > 0, 0).sum(dim) for x in (log_p, log_q))
    # where: no trust in a sample that may cost inf
    return (m.xlogy(m) - m * entropy + m.square() * cross).where(m != 0, 0)
