"""Logit MSE: the student matches the teacher's logits themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses.base import RowLoss, check_mask, same_classes, without_channels
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from kdgraph.losses._closed import Logits


@register_loss
class LogitMSE(RowLoss):
    """``mean_k (z_s - z_t)**2``.

    Ba, Caruana 2014 (arXiv 1312.6184), whose sum over the classes with a factor 1/2 is this
    times K / 2. Logits are [B, K], [B, L, K] or maps [B, K, H, W]; one row per sample, token or
    pixel. ``reduction: mean`` is the mean over all elements; ``sum`` and ``batchmean`` take the
    sum over the classes in place of the mean.

    Classes that either side masks with -inf are left out, also from the number of classes.
    """

    use: Literal["logit_mse"] = "logit_mse"
    student: Ref
    teacher: Ref

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_classes(student, teacher)
        check_mask(mask, without_channels(student))

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        dim = class_dim(tuple(student.shape))
        possible = (student != -float("inf")) & (teacher != -float("inf"))
        square = (student - teacher).where(possible, 0).square().sum(dim)
        return square / possible.sum(dim).clamp_min(1) if self.reduction == "mean" else square

    def closed_form(
        self, *, student: Logits, teacher: Logits
    ) -> tuple[Tensor, Callable[[Tensor], None]]:
        gap = student.z - teacher.z
        share = 1 / student.z.shape[1] if self.reduction == "mean" else 1.0
        return gap.square().sum(1) * share, lambda grad: student.add(gap, grad * (2 * share))
