"""1x1 convolution: another number of channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.adapters.base import Adapter
from kdgraph.spec.entry import register_adapter
from kdgraph.spec.shapes import Shape, class_dim, fitting_adapters, rank

if TYPE_CHECKING:
    from torch import nn


@register_adapter
class Conv1x1(Adapter):
    """Maps [B, C, H, W] to the teacher's number of channels by a 1x1 convolution.

    FitNets' regressor (Romero et al. 2015, 1412.6550). ``norm: batch`` adds a batch-norm, as the
    adapters of later comparisons do; its shift then stands in for the ``bias``;
    ``activation: relu`` ends it with a ReLU, for teacher maps that come after one. Weights start
    from N(0, 1 / C), the bias from 0.
    """

    use: Literal["conv1x1"] = "conv1x1"
    bias: bool = True
    norm: Literal["none", "batch"] = "none"
    activation: Literal["none", "relu"] = "none"

    def shape(self, student: Shape, teacher: Shape) -> Shape:
        fits = fitting_adapters(student, teacher)
        rank("conv1x1 works on maps [B, C, H, W]: the student", student, 4, adapters=fits)
        rank("the teacher", teacher, 2, 3, 4)
        return (student[0], teacher[class_dim(teacher)], *student[2:])

    def build(self, student: Shape, teacher: Shape) -> nn.Module:
        from torch import nn

        from kdgraph.adapters._modules import keep_variance

        channels = self.shape(student, teacher)[1]
        plain = self.norm == "none"
        conv = nn.Conv2d(student[1], channels, kernel_size=1, bias=self.bias and plain)
        keep_variance(conv)
        more: list[nn.Module] = [] if plain else [nn.BatchNorm2d(channels)]
        more += [nn.ReLU()] if self.activation == "relu" else []
        return nn.Sequential(conv, *more) if more else conv
