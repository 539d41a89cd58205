"""Certainty: how far a distribution is from saying nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, rank, show

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Certainty(Signal):
    """``1 - H(p) / ln C`` of ``p = softmax(of)``: 0 where p is uniform, 1 where it has one class.

    The smoothing weight of Lee, Cheung and Zhang 2022 (arXiv 2210.13459), one value per sample,
    token or pixel: logits [B, K], [B, L, K] or [B, K, H, W] give [B], [B, L] or [B, H, W].

    ``classes`` is C. It is K if left out; where logits are padded to a round number of classes,
    it says how many of the first are real, and those behind are left out. The value is a
    constant for autograd unless ``attached: true``, which passes its gradient on,
    ``d(value)/dz_k = p_k (ln p_k + H) / ln C``. A bound on it is ``affine`` with ``clamp``.
    """

    use: Literal["certainty"] = "certainty"
    of: Ref
    classes: Annotated[int, Field(ge=2)] | None = None
    attached: bool = False

    def shape(self, *, of: Shape) -> Shape:
        rank("certainty needs logits: they", of, 2, 3, 4)
        at = class_dim(of)
        least = self.classes or 2
        if of[at] < least:
            raise ShapeMismatch(f"{show(of)} has {of[at]} classes, but there must be {least}")
        return of[:at] + of[at + 1 :]

    def forward(self, *, of: Tensor) -> Tensor:
        from kdgraph.signals._module import wide

        z = wide(of) if self.attached else wide(of).detach()
        dim = class_dim(tuple(z.shape))
        classes = self.classes or z.shape[dim]
        ratio = z.narrow(dim, 0, classes).softmax(dim) * classes  # of p to the uniform 1 / C
        # KL(p || uniform) / ln C in Bregman form, whose terms are >= 0: near the uniform one,
        # 1 - H / ln C would have no digits left. where: p = 0 has no logarithm.
        terms = ratio * ratio.where(ratio > 0, 1).log() - ratio + 1
        return terms.mean(dim) / math.log(classes)
