"""Confidence penalty: the student keeps the entropy of its prediction up."""

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
class ConfidencePenalty(RowLoss):
    """``-H(q) = sum_k q_k log q_k``, ``q = softmax(z_s / tau)``.

    Pereyra et al. 2017 (arXiv 1701.06548). Between ``-log K`` and 0; no teacher and no label.
    Logits are [B, K], [B, L, K] or maps [B, K, H, W]; one row per sample, token or pixel.
    """

    use: Literal["confidence_penalty"] = "confidence_penalty"
    student: Ref
    tau: Tau = 1.0

    def shapes(self, *, student: Shape, mask: Shape | None = None) -> None:
        rank("student logits", student, *VECTORS, *TOKENS, *MAPS)
        check_mask(mask, without_channels(student))

    def rows(self, *, student: Tensor, tau: Tensor | float) -> Tensor:
        return -entropy(student / per_sample(tau, student), class_dim(tuple(student.shape)))
