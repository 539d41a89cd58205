"""PKT: the student's samples are neighbours with the teacher's probabilities."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._math import divergence, unit
from kdgraph.losses._part import part
from kdgraph.losses.base import Loss, same_samples
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-7  # opposite samples would have probability 0


@register_loss
class PKT(Loss):
    """``sum_ij p_ij log(p_ij / q_ij)``, p of the teacher and q of the student.

    Probabilistic knowledge transfer: Passalis, Tefas 2018 (arXiv 1803.10837). The affinity of two
    samples is ``(1 + cos) / 2``, divided by the sum over its row. Probabilities count as 1e-7 at
    least, where the authors' program adds 1e-7 to each. Features are vectors [B, D], tokens
    [B, L, D] or maps [B, C, H, W], flattened to one row per sample; the sides need only the
    same B.

    Variants: ``reduction: mean`` (the default) is the mean over the B**2 pairs, as in the
    authors' program, which like this counts a sample as its own neighbour; ``sum`` is the sum,
    as in the paper.
    """

    use: Literal["pkt"] = "pkt"
    student: Ref
    teacher: Ref
    reduction: Literal["mean", "sum"] = "mean"

    def across_batch(self, student: Shape) -> bool:
        return True

    def shapes(self, *, student: Shape, teacher: Shape) -> None:
        same_samples(student, teacher)

    def parts(self, *, student: Any, teacher: Any) -> dict[str, partial[Any]]:
        return {
            "student": partial(log_neighbours, student),
            "teacher": partial(log_neighbours, teacher),
        }

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        terms = divergence(teacher, student)
        return terms.mean() if self.reduction == "mean" else terms.sum()


@part
def log_neighbours(x: Tensor) -> Tensor:
    """[B, B], logarithms of rows that sum to 1."""
    direction = unit(x.flatten(1), 1)
    affinity = (1 + direction @ direction.T) / 2
    return (affinity / affinity.sum(1, keepdim=True)).clamp_min(LEAST).log()
