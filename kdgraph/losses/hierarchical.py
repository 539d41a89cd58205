"""Hierarchical context: maps match at several sizes, from all pixels to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdgraph.losses.base import RowLoss, check_mask, same_features
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape
from kdgraph.spec.types import Count

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class Hierarchical(RowLoss):
    """``sum_l w_l mean (pool_l(F_s) - pool_l(F_t))**2 / sum_l w_l``, ``w = 1, 1/2, 1/4, ...``.

    The hierarchical context loss of ReviewKD: Chen et al. 2021 (arXiv 2104.09044). The first term
    is of the maps as they are, the others of their averages over a grid of ``sizes``; sizes not
    below the map's height are left out. Maps [B, C, H, W] of equal shape; one row per sample.
    """

    use: Literal["hierarchical"] = "hierarchical"
    student: Ref
    teacher: Ref
    sizes: Annotated[tuple[Count, ...], Field(strict=False)] = (4, 2, 1)

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, 4)
        check_mask(mask, student[:1])

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        from torch.nn.functional import adaptive_avg_pool2d

        gap = student - teacher
        value, weight, weights = gap.square().mean((1, 2, 3)), 1.0, 1.0
        for size in self.sizes:
            if size < gap.shape[2]:
                weight /= 2
                weights += weight
                # the mean of a difference is the difference of means
                pooled = adaptive_avg_pool2d(gap, size)
                value = value + weight * pooled.square().mean((1, 2, 3))
        return value / weights
