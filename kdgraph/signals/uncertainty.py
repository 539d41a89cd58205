"""Uncertainty: how far several random passes of a model agree, and how sure each of them is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Refs, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, rank, show

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Uncertainty(Signal):
    """``H(mean_k p_k) = mean_k H(p_k) + I``: total, aleatoric and epistemic uncertainty, to [B].

    Of K passes with dropout on (``dropout: true``, ``passes: K``), or of the members of an
    ensemble, ``p_k = softmax(z_k)``. ``kind: epistemic`` is what they disagree about, ``I``;
    ``aleatoric`` is how undecided each of them is. Depeweg et al. 2018 (arXiv 1710.07283).

    ``measure: variance`` takes traces of covariances of the one-hot label in the place of
    entropies, as in Kwon et al. 2020 (10.1016/j.csda.2019.106816): aleatoric
    ``mean_k (1 - ||p_k||**2)``, epistemic ``mean_k ||p_k - p||**2`` with p the mean, and total
    ``1 - ||p||**2``, their sum.

    ``normalise: classes`` divides by ``ln C`` or ``1 - 1 / C``, the largest value of the total; the
    epistemic part of K passes never exceeds that of K classes;
    ``batch_max`` by the largest in the batch, which makes a sample depend on those beside it;
    ``none`` leaves nats or probabilities. Logits are [B, K], [B, L, K] or [B, K, H, W] and give
    [B], [B, L] or [B, H, W], constants for autograd, never below 0.
    """

    use: Literal["uncertainty"] = "uncertainty"
    of: Refs
    kind: Literal["epistemic", "aleatoric", "total"] = "epistemic"
    measure: Literal["entropy", "variance"] = "entropy"
    normalise: Literal["classes", "batch_max", "none"] = "classes"

    def by_row(self) -> bool:
        return self.normalise != "batch_max"

    def shape(self, *, of: list[Shape]) -> Shape:
        first = of[0]
        rank("uncertainty needs logits: they", first, 2, 3, 4)
        if (other := next((s for s in of if s != first), None)) is not None:
            message = f"all passes must have equal shapes, not {show(first)} and {show(other)}"
            raise ShapeMismatch(message)
        if self.kind == "epistemic" and len(of) < 2:
            raise ShapeMismatch(
                "a single pass cannot disagree with itself: give the model `passes`, or list more"
            )
        at = class_dim(first)
        if first[at] < 2:
            raise ShapeMismatch(f"{show(first)} has a single class, which is never uncertain")
        return first[:at] + first[at + 1 :]

    def forward(self, *, of: list[Tensor]) -> Tensor:
        import torch

        from kdgraph.signals._module import wide

        dim = class_dim(tuple(of[0].shape))
        log_p = torch.stack([wide(z).detach() for z in of]).log_softmax(dim + 1)
        values = _entropies if self.measure == "entropy" else _variances
        value = values(log_p, dim + 1)[self.kind].clamp_min(0)
        classes = of[0].shape[dim]
        if self.normalise == "classes":
            most = math.log(classes) if self.measure == "entropy" else 1 - 1 / classes
            return value / most
        if self.normalise == "batch_max":
            largest = value.amax()
            return value / largest.where(largest > 0, 1)
        return value


def _entropies(log_p: Tensor, dim: int) -> dict[str, Tensor]:
    """From log probabilities [K, ...]."""
    p, log_mean = log_p.exp(), log_p.logsumexp(0) - math.log(len(log_p))
    aleatoric = -(p * log_p.where(p > 0, 0)).sum(dim).mean(0)
    # The mutual information as a mean of KL(p_k || p) in Bregman form: a difference of entropies
    # would have no digits left where the passes agree.
    gap = (log_p - log_mean).where(p > 0, 0)
    epistemic = (p * gap - p + log_mean.exp()).sum(dim).mean(0)
    return {"aleatoric": aleatoric, "epistemic": epistemic, "total": aleatoric + epistemic}


def _variances(log_p: Tensor, dim: int) -> dict[str, Tensor]:
    p = log_p.exp()
    mean = p.mean(0)
    return {
        "aleatoric": (p * (1 - p)).sum(dim).mean(0),
        "epistemic": (p - mean).square().sum(dim).mean(0),
        "total": (mean * (1 - mean)).sum(dim - 1),
    }
