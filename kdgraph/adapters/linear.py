"""Linear layer: another width of vectors or tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.adapters.base import Adapter
from kdgraph.spec.entry import register_adapter
from kdgraph.spec.shapes import (
    Shape,
    ShapeMismatch,
    class_dim,
    fitting_adapters,
    rank,
    show,
)

if TYPE_CHECKING:
    from torch import nn


@register_adapter
class Linear(Adapter):
    """Takes the last dimension, of [B, D], [B, L, D] or [B, H, W, D], to the teacher's width.

    Weights start from N(0, 1 / D), the bias from 0.
    """

    use: Literal["linear"] = "linear"
    bias: bool = True

    def shape(self, student: Shape, teacher: Shape) -> Shape:
        rank("linear works on the last dimension: the student", student, 2, 3, 4)
        rank("the teacher", teacher, 2, 3, 4)
        if len(student) == 4 and student[:3] != teacher[:3]:
            raise ShapeMismatch(
                f"linear works on the last dimension, so student {show(student)} would have to be "
                f"channels-last and of the resolution of teacher {show(teacher)}",
                adapters=fitting_adapters(student, teacher),
            )
        both_grids = len(student) == len(teacher) == 4
        return (*student[:-1], teacher[-1 if both_grids else class_dim(teacher)])

    def build(self, student: Shape, teacher: Shape) -> nn.Module:
        from torch import nn

        from kdgraph.adapters._modules import keep_variance

        layer = nn.Linear(student[-1], self.shape(student, teacher)[-1], bias=self.bias)
        keep_variance(layer)
        return layer
