"""Product: weights and masks multiplied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Refs, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, show

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Product(Signal):
    """``a * b * ...``, the factors lined up from the left, as weights are with rows.

    A number goes with anything, one value per sample [B] with rows [B, L] or [B, H, W]; the
    result has the longest of the shapes. Masks count as 0 and 1. Gradients pass; a signal
    ``detach`` in front stops them.
    """

    use: Literal["product"] = "product"
    of: Refs

    def shape(self, *, of: list[Shape]) -> Shape:
        longest = max(of, key=len)
        for ref, other in zip(self.of, of, strict=True):
            if other != longest[: len(other)]:
                raise ShapeMismatch(
                    f"{ref} {show(other)} does not line up with {show(longest)} from the left"
                )
        return longest

    def forward(self, *, of: list[Tensor]) -> Tensor:
        from kdgraph.signals._module import wide

        most = max([x.dim() for x in of])
        factors = [wide(x.reshape(*x.shape, *[1] * (most - x.dim()))) for x in of]
        result = factors[0]
        for factor in factors[1:]:
            result = result * factor
        return result
