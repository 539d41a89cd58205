"""Correct: where a prediction is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, rank, show

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Correct(Signal):
    """``1 where argmax z = label, else 0``: a float for each sample, token or pixel.

    Logits ``of`` are [B, K], [B, L, K] or [B, K, H, W], ``label`` class numbers [B], [B, L] or
    [B, H, W]; of several largest logits the first counts. A label that no class has, one to be
    ignored say, is never met. For masks and weights that trust a teacher only where it is right,
    as selective distillation does (Gou et al. 2023, 10.1109/TCDS.2022.3232569).
    """

    use: Literal["correct"] = "correct"
    of: Ref
    label: Ref

    def shape(self, *, of: Shape, label: Shape) -> Shape:
        rank("logits", of, 2, 3, 4, 5)
        at = class_dim(of)
        if label != of[:at] + of[at + 1 :]:
            raise ShapeMismatch(f"labels {show(label)} are not those of logits {show(of)}")
        return label

    def forward(self, *, of: Tensor, label: Tensor) -> Tensor:
        from kdgraph.signals._module import wide

        right = of.argmax(class_dim(tuple(of.shape))) == label
        return right.to(wide(of).dtype)
