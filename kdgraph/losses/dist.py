"""DIST: the student's probabilities correlate with the teacher's, by row and by class."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._math import pearson
from kdgraph.losses._part import tempered
from kdgraph.losses.base import Loss, same_classes
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim
from kdgraph.spec.steer import Tau
from kdgraph.spec.types import NonNegative

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from kdgraph.losses._closed import Logits


@register_loss
class DIST(Loss):
    """``tau**2 * (inter * mean_i (1 - r(p_i, q_i)) + intra * mean_k (1 - r(p_k, q_k)))``.

    Huang et al. 2022 (arXiv 2205.10536). r is Pearson's correlation; ``p = softmax(z_t / tau)``
    and q likewise of the student; i runs over the rows and k over the classes. Logits are [B, K],
    [B, L, K] or maps [B, K, H, W]; every sample, token or pixel is a row.

    A constant row or column has correlation 0 with every other, and no gradient: with B = 1 the
    second mean is 1. With a per-sample ``tau`` the factor is the mean of its square.
    """

    teaches_as = "logits"

    use: Literal["dist"] = "dist"
    student: Ref
    teacher: Ref
    tau: Tau = 1.0
    inter: NonNegative = 1.0
    intra: NonNegative = 1.0

    def across_batch(self, student: Shape) -> bool:
        return True

    def shapes(self, *, student: Shape, teacher: Shape) -> None:
        same_classes(student, teacher)

    def parts(self, *, student: Any, teacher: Any, tau: Any) -> dict[str, partial[Any]]:
        return tempered(student, teacher, tau)

    def forward(self, *, student: Tensor, teacher: Tensor, tau: Tensor | float) -> Tensor:
        q, p = _probabilities(student), _probabilities(teacher)
        inter = (1 - pearson(q, p, 1)).mean()
        intra = (1 - pearson(q, p, 0)).mean()
        return _factor(tau) * (self.inter * inter + self.intra * intra)

    def closed_form(
        self, *, student: Logits, teacher: Logits, tau: Tensor | float
    ) -> tuple[Tensor, Callable[[Tensor], None]]:
        from kdgraph.losses._correlation import correlations, gradient

        view, factor = student.at(tau), _factor(tau)
        q, p = view.prob, teacher.at(tau).prob
        weights = {1: self.inter, 0: self.intra}
        found = correlations(q, p, [dim for dim, w in weights.items() if w])

        def pull(grad: Tensor) -> None:
            of = [(r, -weights[r.dim] / r.value.numel()) for r in found]
            view.add_prob(q, gradient(q, p, of), grad * factor)

        value = q.new_zeros(())
        for r in found:
            value = value + weights[r.dim] * (1 - r.value).mean()
        return value * factor, pull


def _factor(tau: Tensor | float) -> Tensor | float:
    return tau**2 if isinstance(tau, int | float) else tau.square().mean()


def _probabilities(logs: Tensor) -> Tensor:
    """[rows, K], from their logarithms."""
    return logs.exp().movedim(class_dim(tuple(logs.shape)), -1).flatten(0, -2)
