"""Contrastive: each sample's features are nearest to the teacher's of the same sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses._math import unit
from kdgraph.losses.base import MAPS, TOKENS, VECTORS, Loss, same_features
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class Contrastive(Loss):
    """``-mean_i log(exp(s_i . t_i / tau) / sum_j exp(s_i . t_j / tau))``, s and t of length 1.

    InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) between a student's features and its
    teacher's, the other samples of the batch as negatives. CRD (Tian et al. 2020, arXiv
    1910.10699) draws many more from a memory bank, which this has none of. Features are vectors
    [B, D], tokens [B, L, D] or maps [B, C, H, W], flattened to one row per sample, of equal shape.
    """

    use: Literal["contrastive"] = "contrastive"
    student: Ref
    teacher: Ref
    tau: Tau = 0.07

    def across_batch(self, student: Shape) -> bool:
        return True

    def shapes(self, *, student: Shape, teacher: Shape) -> None:
        same_features(student, teacher, *VECTORS, *TOKENS, *MAPS)

    def forward(self, *, student: Tensor, teacher: Tensor, tau: Tensor | float) -> Tensor:
        s, t = (unit(x.flatten(1), 1) for x in (student, teacher))
        tau = tau if isinstance(tau, int | float) or tau.dim() == 0 else tau.unsqueeze(1)
        return -(s @ t.T / tau).log_softmax(1).diagonal().mean()
