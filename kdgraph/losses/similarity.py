"""Similarity: samples that are alike for the teacher are alike for the student."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._math import unit
from kdgraph.losses._part import part
from kdgraph.losses.base import Loss, same_samples
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class Similarity(Loss):
    """``||N(F_s F_s^T) - N(F_t F_t^T)||_F**2 / B**2``, N the L2 norm of each row.

    Similarity-preserving distillation (SP): Tung, Mori 2019 (arXiv 1907.09682). Features are
    vectors [B, D], tokens [B, L, D] or maps [B, C, H, W], flattened to one row per sample; the
    sides need only the same B. A sample of features 0 has similarity 0 with every other.
    """

    use: Literal["similarity"] = "similarity"
    student: Ref
    teacher: Ref

    def across_batch(self, student: Shape) -> bool:
        return True

    def shapes(self, *, student: Shape, teacher: Shape) -> None:
        same_samples(student, teacher)

    def parts(self, *, student: Any, teacher: Any) -> dict[str, partial[Any]]:
        return {
            "student": partial(similarities, student),
            "teacher": partial(similarities, teacher),
        }

    def why_plain(self, **_: Shape) -> str:
        return "its rows are normalised after the product, which has no cheaper side then"

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean()


@part
def similarities(x: Tensor) -> Tensor:
    """[B, B], rows of length 1."""
    flat = x.flatten(1)
    return unit(flat @ flat.T, 1)
