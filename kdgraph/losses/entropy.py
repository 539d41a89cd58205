"""Entropy: how undecided the student is, to be brought down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses._math import entropy
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
from kdgraph.spec.shapes import Shape, class_dim, rank
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class Entropy(RowLoss):
    """``H(q) = -sum_k q_k log q_k``, ``q = softmax(z_s / tau)``.

    Entropy minimisation, Grandvalet and Bengio 2004 (Semi-supervised Learning by Entropy
    Minimization, NIPS 17); ``confidence_penalty`` is its negative. Between 0 and log K; no teacher
    and no label. Logits are [B, K], [B, L, K] or maps [B, K, H, W]; one row per sample, token or
    pixel.

    What the action ``attend`` taps as ``log_rows``, [M, N], are logits too: their softmax is the
    attention. With ``reduction: sum`` this is then the regulariser of KDExplainer (Xue et al. 2021,
    arXiv 2105.04181), the sum of the entropies of all rows.
    """

    use: Literal["entropy"] = "entropy"
    student: Ref
    tau: Tau = 1.0

    def shapes(self, *, student: Shape, mask: Shape | None = None) -> None:
        rank("student logits", student, *VECTORS, *TOKENS, *MAPS)
        check_mask(mask, without_channels(student))

    def rows(self, *, student: Tensor, tau: Tensor | float) -> Tensor:
        return entropy(student / per_sample(tau, student), class_dim(tuple(student.shape)))
