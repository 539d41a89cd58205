"""Orthogonal projection: features of one class align, those of two are orthogonal."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from kdgraph.losses._math import unit
from kdgraph.losses.base import Loss
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, rank, show
from kdgraph.spec.types import NonNegative

if TYPE_CHECKING:
    from torch import Tensor

_PAIRS = 1e-6  # added to a number of pairs, as the authors do, so that none is no division by 0


@register_loss
class OrthogonalProjection(Loss):
    """``(1 - s) + gamma d``: mean cosines of pairs of one class (s) and of two classes (d).

    OPL: Ranasinghe et al. 2021 (arXiv 2103.14021), as CSKD (Wang, Rhodes, Feng 2022) uses it.
    Features are vectors [B, D], made of length 1; ``target`` class numbers [B], of which those
    equal to ``ignore_index`` do not count. A batch without such pairs has s = 0 or d = 0.

    Variants: ``variant: absolute`` (the default) takes ``|d|``, so that classes become orthogonal,
    as the paper says; ``signed`` is CSKD's program, which pushes them to opposite directions.
    """

    of_features: ClassVar[bool] = True

    use: Literal["orthogonal_projection"] = "orthogonal_projection"
    student: Ref
    target: Ref
    gamma: NonNegative = 0.5
    variant: Literal["absolute", "signed"] = "absolute"
    ignore_index: int = -100

    def across_batch(self, student: Shape) -> bool:
        return True

    def shapes(self, *, student: Shape, target: Shape) -> None:
        rank("features", student, 2)
        if target != student[:1]:
            raise ShapeMismatch(f"labels {show(target)} are not one for each of {show(student)}")

    def forward(self, *, student: Tensor, target: Tensor) -> Tensor:
        from torch import eye

        rows = unit(student, 1)
        cosine = rows @ rows.T
        known = target != self.ignore_index
        both = known.unsqueeze(0) & known.unsqueeze(1)
        same = target.unsqueeze(0) == target.unsqueeze(1)
        pairs = same & both & ~eye(len(rows), dtype=same.dtype, device=same.device)
        apart = ~same & both
        alike = cosine.where(pairs, 0).sum() / (pairs.to(cosine.dtype).sum() + _PAIRS)
        other = cosine.where(apart, 0).sum() / (apart.to(cosine.dtype).sum() + _PAIRS)
        return 1 - alike + self.gamma * (other.abs() if self.variant == "absolute" else other)
