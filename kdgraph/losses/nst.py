"""Neuron selectivity transfer: the channels' patterns are distributed as the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses._math import by_channel, unit
from kdgraph.losses.base import MAPS, TOKENS, RowLoss, check_mask, same_features
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class NST(RowLoss):
    """``mean k(t, t) + mean k(s, s) - 2 mean k(s, t)`` over pairs of channels, ``k = (x . y)**2``.

    Huang, Wang 2017 (arXiv 1707.01219): the squared maximum mean discrepancy of the channels of
    one sample, each channel a pattern over the positions of length 1. Tokens [B, L, D] or maps
    [B, C, H, W] with equal positions; the numbers of channels may differ. One row per sample.

    Variants: ``variant: polynomial`` (the default, degree 2 without a constant) is the paper's
    best; ``linear`` is ``x . y``, which compares the mean patterns alone.
    """

    use: Literal["nst"] = "nst"
    student: Ref
    teacher: Ref
    variant: Literal["polynomial", "linear"] = "polynomial"

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *TOKENS, *MAPS, channels=False)
        check_mask(mask, student[:1])

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (unit(by_channel(x), 2) for x in (student, teacher))
        return self._mean(t, t) + self._mean(s, s) - 2 * self._mean(s, t)

    def _mean(self, a: Tensor, b: Tensor) -> Tensor:
        product = a @ b.mT
        return (product.square() if self.variant == "polynomial" else product).mean((1, 2))
