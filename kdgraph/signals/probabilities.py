"""Probabilities: logits as the distribution they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, class_dim, rank
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Probabilities(Signal):
    """``softmax(z / tau)`` over the classes of logits [B, K], [B, L, K] or [B, K, H, W].

    A target for ``soft_cross_entropy``. Gradients pass; a signal ``detach`` stops them.
    """

    gives = "probabilities"

    use: Literal["probabilities"] = "probabilities"
    of: Ref
    tau: Tau = 1.0

    def shape(self, *, of: Shape) -> Shape:
        rank("probabilities are of logits: they", of, 2, 3, 4)
        return of

    def forward(self, *, of: Tensor, tau: Tensor | float) -> Tensor:
        from kdgraph.signals._module import lined_up, wide

        z = wide(of)
        result: Tensor = (z / lined_up(tau, z)).softmax(class_dim(tuple(z.shape)))
        return result
