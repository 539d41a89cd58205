"""Hard label: the class that the teacher holds most likely, as if it were the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses.base import RowLoss, check_mask, same_classes, without_channels
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim
from kdgraph.spec.types import Fraction

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class HardLabel(RowLoss):
    """``-log softmax(z_s)_k``, ``k = argmax z_t``.

    Hard distillation of DeiT: Touvron et al. 2020 (arXiv 2012.12877), whose ``smoothing`` spreads
    that share evenly over all classes. Logits are [B, K], [B, L, K] or maps [B, K, H, W]; one row
    per sample, token or pixel. Of several largest logits the first counts.
    """

    use: Literal["hard_label"] = "hard_label"
    student: Ref
    teacher: Ref
    smoothing: Fraction = 0.0

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_classes(student, teacher)
        check_mask(mask, without_channels(student))

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        dim = class_dim(tuple(student.shape))
        log_q = student.log_softmax(dim)
        hard = -log_q.gather(dim, teacher.argmax(dim, keepdim=True)).squeeze(dim)
        if self.smoothing == 0:
            return hard
        possible = log_q > -float("inf")
        even = -log_q.where(possible, 0).sum(dim) / possible.sum(dim)
        if self.smoothing == 1:
            return even  # the label counts nothing, not even where it is impossible
        return (1 - self.smoothing) * hard + self.smoothing * even
