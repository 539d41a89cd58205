"""Intra-class variance: features of one class stay close together."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from kdgraph.losses._math import length
from kdgraph.losses.base import Loss
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, rank, show

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class IntraClassVariance(Loss):
    """``sum_c ||V_c||``, V_c [D] the variance of the features over the samples of class c.

    ICV of CSKD: Wang, Rhodes, Feng 2022 (10.1007/978-3-031-26284-5_24). Features are vectors
    [B, D], ``target`` class numbers [B]; variances are unbiased. Samples labelled
    ``ignore_index`` do not count.

    Variants: ``axis: sample`` (the default) as above, which is what the name says, a
    reconstruction; classes with fewer than two samples in the batch add nothing. ``feature`` is
    the authors' program: ``sum_c sqrt(sum_i v_i**2)`` over the samples i of class c, v_i the
    variance *within* one feature vector, which asks each vector to be flat and says nothing about
    its class.
    """

    of_features: ClassVar[bool] = True

    use: Literal["intra_class_variance"] = "intra_class_variance"
    student: Ref
    target: Ref
    axis: Literal["sample", "feature"] = "sample"
    ignore_index: int = -100

    def across_batch(self, student: Shape) -> bool:
        return self.axis == "sample"

    def shapes(self, *, student: Shape, target: Shape) -> None:
        rank("features", student, 2)
        if target != student[:1]:
            raise ShapeMismatch(f"labels {show(target)} are not one for each of {show(student)}")
        if self.axis == "feature" and student[1] < 2:
            raise ShapeMismatch(f"features {show(student)} of one value have no variance")

    def forward(self, *, student: Tensor, target: Tensor) -> Tensor:
        known = (target != self.ignore_index).unsqueeze(0)
        same = ((target.unsqueeze(0) == target.unsqueeze(1)) & known).to(student.dtype)  # [B, B]
        number = same.sum(1).clamp_min(1)
        if self.axis == "feature":
            spread = student.var(1)
            norms = length(same * spread, 1)  # of each sample's class
        else:
            own = same @ student / number.unsqueeze(1)
            square = (student - own).square()
            norms = length(same @ square / (number - 1).clamp_min(1).unsqueeze(1), 1)
        # each class was counted once for each of its samples
        return (norms / number).sum()
