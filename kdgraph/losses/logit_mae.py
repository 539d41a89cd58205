"""Logit MAE: the logits themselves, by their absolute difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses.base import RowLoss, check_mask, same_classes, without_channels
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class LogitMAE(RowLoss):
    """``mean_k |z_s - z_t|``.

    As in data-free adversarial distillation, Fang et al. 2019 (arXiv 1912.11006). Logits are
    [B, K], [B, L, K] or maps [B, K, H, W]; one row per sample, token or pixel. ``sum`` and
    ``batchmean`` take the sum over the classes in place of the mean.

    Classes that either side masks with -inf are left out, also from the number of classes.
    """

    use: Literal["logit_mae"] = "logit_mae"
    student: Ref
    teacher: Ref

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_classes(student, teacher)
        check_mask(mask, without_channels(student))

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        dim = class_dim(tuple(student.shape))
        possible = (student != -float("inf")) & (teacher != -float("inf"))
        gap = (student - teacher).where(possible, 0).abs().sum(dim)
        return gap / possible.sum(dim).clamp_min(1) if self.reduction == "mean" else gap
