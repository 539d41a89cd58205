"""Correlation congruence: a kernel between samples is as it is for the teacher."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from kdgraph.losses._math import unit
from kdgraph.losses.base import Loss, same_samples
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape
from kdgraph.spec.types import Count, Positive

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class CorrelationCongruence(Loss):
    """``mean_ij (K_s - K_t)**2``, ``K = sum_p exp(-2 gamma) (2 gamma)**p / p! (f_i . f_j)**p``.

    CCKD: Peng et al. 2019 (arXiv 1904.01802): the Gaussian kernel ``exp(-gamma |f_i - f_j|**2)``
    of features of length 1 by its Taylor series up to ``order``. Features are vectors [B, D],
    tokens [B, L, D] or maps [B, C, H, W], flattened to one row per sample; the sides need only
    the same B. Defaults are the paper's, 0.4 and 2.

    Variants: ``variant: series`` (the default) as above; ``bilinear`` is ``f_i . f_j``.
    """

    use: Literal["correlation_congruence"] = "correlation_congruence"
    student: Ref
    teacher: Ref
    variant: Literal["series", "bilinear"] = "series"
    gamma: Positive = 0.4
    order: Count = 2

    def across_batch(self, student: Shape) -> bool:
        return True

    def shapes(self, *, student: Shape, teacher: Shape) -> None:
        same_samples(student, teacher)

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        return (self._kernel(student) - self._kernel(teacher)).square().mean()

    def _kernel(self, x: Tensor) -> Tensor:
        """[B, B]."""
        rows = unit(x.flatten(1), 1)
        product = rows @ rows.T
        if self.variant == "bilinear":
            return product
        terms = [
            (2 * self.gamma) ** p / math.factorial(p) * product**p for p in range(self.order + 1)
        ]
        return math.exp(-2 * self.gamma) * sum(terms[1:], terms[0])
