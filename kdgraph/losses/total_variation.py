"""Total variation: how much probability lies on other classes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._part import tempered
from kdgraph.losses.base import RowLoss, check_mask, same_classes, without_channels
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class TotalVariation(RowLoss):
    """``1/2 sum_k |p_k - q_k|``, ``p = softmax(z_t / tau)`` and q of the student.

    Wen et al. 2023 (arXiv 2307.15190). Symmetric, between 0 and 1, no factor of tau. Logits are
    [B, K], [B, L, K] or maps [B, K, H, W]; one row per sample, token or pixel. Either side may
    mask classes by -inf.
    """

    teaches_as = "logits"

    use: Literal["total_variation"] = "total_variation"
    student: Ref
    teacher: Ref
    tau: Tau = 1.0

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_classes(student, teacher)
        check_mask(mask, without_channels(student))

    def parts(self, *, student: Any, teacher: Any, tau: Any, **_: Any) -> dict[str, partial[Any]]:
        return tempered(student, teacher, tau)

    def rows(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        return (teacher.exp() - student.exp()).abs().sum(class_dim(tuple(student.shape))) / 2
