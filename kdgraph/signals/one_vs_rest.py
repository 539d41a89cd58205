"""One against the rest: a distribution over K classes as K questions of yes or no."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, rank

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class OneVsRest(Signal):
    """``(p_k, 1 - p_k)`` for each class k: [B, K, 2] of probabilities [B, K].

    A target for a student with a head of two units for each class, the first of which means
    "this class", as KDExplainer's (Xue et al. 2021, arXiv 2105.04181). Its logits [B, K, 2] are
    tokens to ``soft_cross_entropy``: one row for each sample and class. Gradients pass.
    """

    use: Literal["one_vs_rest"] = "one_vs_rest"
    of: Ref

    def shape(self, *, of: Shape) -> Shape:
        rank("one_vs_rest needs probabilities [B, K]: they", of, 2)
        return (*of, 2)

    def forward(self, *, of: Tensor) -> Tensor:
        from torch import stack

        from kdgraph.signals._module import wide

        p = wide(of)
        return stack([p, 1 - p], 2)
