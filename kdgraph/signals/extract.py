"""Extract: what a teacher's distribution says beyond the uniform one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, class_dim, rank
from kdgraph.spec.steer import Tau
from kdgraph.spec.types import Fraction, NonNegative

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Extract(Signal):
    """``(p - beta e) / (1 - K beta e)``, with ``p = softmax(z / tau)`` and ``e = min_k p_k``.

    A target of extractive distillation (Kobayashi 2022, WACV), as probabilities; the operator is
    a reconstruction. A teacher at a high temperature is a uniform pedestal with a small part on
    top that tells classes apart, and beside a student at temperature 1 most of it is label
    smoothing. ``beta: 1`` takes the pedestal away, ``beta: 0`` leaves p as it is. With ``beta: 1``
    and a growing ``tau`` the target goes to ``(z - min z) / sum(z - min z)``.

    Variants: ``floor`` (the default) is the above; ``mean_residual`` is
    ``1 / K + kappa (p - 1 / K)``, which has negative entries where ``kappa`` is large and is then
    for ``variant: cross_entropy`` of ``soft_cross_entropy`` alone.

    Logits are [B, K], [B, L, K] or [B, K, H, W], and constant for autograd. Every ``tau`` keeps
    its digits: ``p_k - e`` is computed as ``-p_k expm1((min z - z_k) / tau)``. Classes whose
    logit is -inf are no classes. A uniform teacher gives the uniform distribution.
    """

    gives = "probabilities"

    use: Literal["extract"] = "extract"
    of: Ref
    tau: Tau = 4.0
    variant: Literal["floor", "mean_residual"] = "floor"
    beta: Fraction = 1.0
    kappa: NonNegative | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.variant == "mean_residual" and self.kappa is None:
            raise PydanticCustomError("extract_kappa", "'mean_residual' needs 'kappa'")
        idle = "kappa" if self.variant == "floor" else "beta"
        if idle in self.model_fields_set:
            raise PydanticCustomError(
                "extract_idle",
                "'{key}' has no effect on '{variant}'; leave it out",
                {"key": idle, "variant": self.variant},
            )
        return self

    def shape(self, *, of: Shape) -> Shape:
        rank("extract needs logits: they", of, 2, 3, 4)
        return of

    def forward(self, *, of: Tensor, tau: Tensor | float) -> Tensor:
        from kdgraph.signals._module import lined_up, wide

        z = wide(of.detach())
        dim = class_dim(tuple(z.shape))
        tau = lined_up(tau, z)
        possible = z > -float("inf")
        number = possible.sum(dim, keepdim=True)
        below = (z - z.amax(dim, keepdim=True)) / tau
        if self.variant == "floor":
            share = self._above_floor(z, below, tau, dim)
        else:
            assert self.kappa is not None
            e, rest = below.exp(), below.expm1().where(possible, 0)
            mean, down = (x.sum(dim, keepdim=True) / number for x in (e, rest))
            # of two equal forms the one that keeps its digits: nearly uniform, or peaked
            gap = (rest - down).where(mean > 0.5, e - mean)
            share = (1 + self.kappa * gap / mean) / number
        return share.where(possible, 0)

    def _above_floor(self, z: Tensor, below: Tensor, tau: Tensor | float, dim: int) -> Tensor:
        from torch import finfo

        p, possible = below.softmax(dim), z > -float("inf")
        lowest = z.where(possible, float("inf")).amin(dim, keepdim=True)
        least = p.where(possible, 1).amin(dim, keepdim=True)
        above = -p * ((lowest - z) / tau).expm1()
        left = (above + (1 - self.beta) * least).where(possible, 0)
        largest = z.amax(dim, keepdim=True)
        size = largest.abs().maximum(lowest.abs())
        whole = left.sum(dim, keepdim=True)
        # equal but for rounding, or too close for any share to be left
        told = (largest - lowest > 8 * finfo(z.dtype).eps * size) & (whole > 0)
        return (left / whole.where(told, 1)).where(told, 1 / possible.sum(dim, keepdim=True))
