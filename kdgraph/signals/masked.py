"""Masked: what lies outside a mask taken out, with its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, check_positions

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Masked(Signal):
    """``x where mask, else 0``: positions outside the mask become 0, whatever they held.

    The ``mask`` of a loss leaves rows out of its value; a nan or inf there would still reach the
    gradient, as 0 times nan is nan. Behind this signal it cannot. ``of`` is [B, K], [B, L, K] or
    [B, K, H, W], ``mask`` [B], or its positions: [B, L] or [B, H, W].
    """

    use: Literal["masked"] = "masked"
    of: Ref
    mask: Ref

    def shape(self, *, of: Shape, mask: Shape) -> Shape:
        check_positions(mask, of)
        return of

    def forward(self, *, of: Tensor, mask: Tensor) -> Tensor:
        from kdgraph.signals._module import inside

        return of.where(inside(mask, of), 0)
