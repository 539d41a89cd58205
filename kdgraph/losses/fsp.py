"""Flow of the solution procedure: how features of one layer go with those of a later one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses._math import by_channel
from kdgraph.losses.base import MAPS, TOKENS, RowLoss, check_mask, same_features
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, show

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class FSP(RowLoss):
    """``mean (G_s - G_t)**2``, ``G = F F'^T / N``: products of two layers' channels.

    Yim et al. 2017 (10.1109/CVPR.2017.754). F and F' are maps [B, C, H, W] and [B, C', H, W] of
    one network at equal sizes, or tokens; ``student`` and ``teacher`` are the earlier layers,
    ``student_to`` and ``teacher_to`` the later ones. Both networks need the same C and the same
    C'; N, the number of positions, may differ. One row per sample.
    """

    use: Literal["fsp"] = "fsp"
    student: Ref
    teacher: Ref
    student_to: Ref
    teacher_to: Ref

    def shapes(
        self,
        *,
        student: Shape,
        teacher: Shape,
        student_to: Shape,
        teacher_to: Shape,
        mask: Shape | None = None,
    ) -> None:
        for first, second in ((student, student_to), (teacher, teacher_to)):
            same_features(first, second, *TOKENS, *MAPS, channels=False)
            if len(first) != len(second):
                raise ShapeMismatch(f"{show(first)} and {show(second)} are not of one form")
        for one, other in ((student, teacher), (student_to, teacher_to)):
            same_features(one, other, *TOKENS, *MAPS, positions=False)
        check_mask(mask, student[:1])

    def rows(
        self, *, student: Tensor, teacher: Tensor, student_to: Tensor, teacher_to: Tensor
    ) -> Tensor:
        return (_flow(student, student_to) - _flow(teacher, teacher_to)).square().mean((1, 2))


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """[B, C, C']."""
    a, b = by_channel(first), by_channel(second)
    return a @ b.mT / a.shape[2]
