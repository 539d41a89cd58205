"""Spatial correlation: the student's pixels are related as the teacher's are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from kdgraph.losses._math import by_channel
from kdgraph.losses._work import Work
from kdgraph.losses.base import MAPS, TOKENS, RowLoss, check_mask, same_features
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class SpatialCorrelation(RowLoss):
    """``||A_s - A_t||_F**2 / N**2``, A [N, N] the cosines between the N pixels or tokens.

    Pair-wise distillation: Liu et al. 2019 (arXiv 1903.04197), with every pixel a node. Features
    are maps [B, C, H, W] or tokens [B, L, D] of equal size; the numbers of channels may differ.
    A pixel's vector is its C channels; one of length 0 has cosine 0 with every other, itself
    too. One row per sample.

    Forms: ``delta_sigma`` makes [C, C] products in the place of [N, N] matrices; it needs equal
    numbers of channels.
    """

    use: Literal["spatial_correlation"] = "spatial_correlation"
    student: Ref
    teacher: Ref

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *TOKENS, *MAPS, channels=False)
        check_mask(mask, student[:1])

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        from kdgraph.losses._gram import gram_gap

        s, t = by_channel(student).mT, by_channel(teacher).mT
        return gram_gap(s, t, across=self._form == "delta_sigma") / s.shape[1] ** 2

    def forms(self, *, student: Shape, teacher: Shape, **_: Shape) -> dict[str, Work]:
        from kdgraph.losses._gram import gram_work

        C, N = sizes(student)
        if sizes(teacher)[0] != C:
            return {}
        across = gram_work(student[0], N, C, across=True)
        return {"plain": gram_work(student[0], N, C), "delta_sigma": across}

    def why_plain(self, *, student: Shape, teacher: Shape, **_: Shape) -> str | None:
        C_s, C_t = sizes(student)[0], sizes(teacher)[0]
        if C_s == C_t:
            return None
        return (
            f"{C_s} and {C_t} channels differ, and products of channels would then lose the "
            "digits of a student close to its teacher; an adapter to equal channels helps"
        )


def sizes(shape: Shape) -> tuple[int, int]:
    """The number of channels, and of pixels or tokens."""
    C = shape[class_dim(shape)]
    return C, math.prod(shape[1:]) // C
