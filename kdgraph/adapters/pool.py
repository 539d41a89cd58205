"""Pool: averages positions away, without parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.adapters.base import Adapter
from kdgraph.spec.entry import register_adapter
from kdgraph.spec.shapes import Shape, ShapeMismatch, fitting_adapters, rank, show

if TYPE_CHECKING:
    from torch import nn


@register_adapter
class Pool(Adapter):
    """Averages a map to the teacher's smaller size; a map or tokens to a vector where it is one.

    [B, C, H, W] to [B, C, h, w] by adaptive average pooling; for a teacher vector [B, D] the mean
    over all positions of [B, C, H, W] or [B, L, C], class tokens included, [B, C].
    """

    use: Literal["pool"] = "pool"

    def shape(self, student: Shape, teacher: Shape) -> Shape:
        fits = fitting_adapters(student, teacher)
        if len(teacher) == 2:
            rank("pool averages maps or tokens: the student", student, 3, 4, adapters=fits)
            return (student[0], student[-1] if len(student) == 3 else student[1])
        what = "pool takes the size of a map, or none from a vector: the teacher"
        rank(what, teacher, 2, 4, adapters=fits)
        rank("pool works on maps [B, C, H, W]: the student", student, 4, adapters=fits)
        if student[2] < teacher[2] or student[3] < teacher[3]:
            raise ShapeMismatch(
                f"pool only shrinks: student {show(student)}, teacher {show(teacher)}",
                adapters=fits,
            )
        return (*student[:2], *teacher[2:])

    def build(self, student: Shape, teacher: Shape) -> nn.Module:
        from torch import nn

        from kdgraph.adapters._modules import MeanOver

        to = self.shape(student, teacher)
        if len(to) == 4:
            return nn.AdaptiveAvgPool2d((to[2], to[3]))
        return MeanOver(1) if len(student) == 3 else MeanOver(2, 3)
