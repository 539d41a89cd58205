"""Top-k logits: the likeliest classes and the mass of the rest, as logits of all classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, show
from kdgraph.spec.types import Count

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class TopKLogits(Signal):
    """Log-probabilities of K classes from those of k, and the ``tail``, spread evenly.

    ``values`` [B, k] or [B, L, k] are log-probabilities at temperature 1 of the classes ``ids``,
    of the same shape; ``tail`` [B] or [B, L] is the probability of all others together, of which
    each gets ``tail / (K - k)``. ``classes`` is K. What a book keeps as ``top_k`` is read so; a
    loss that takes the rest as one class is ``sparse_soft_target``. Constant for autograd.
    """

    use: Literal["top_k_logits"] = "top_k_logits"
    values: Ref
    ids: Ref
    tail: Ref
    classes: Annotated[Count, Field(examples=[6])]

    def shape(self, *, values: Shape, ids: Shape, tail: Shape) -> Shape:
        if len(values) not in (2, 3) or values != ids or tail != values[:-1]:
            raise ShapeMismatch(
                f"values {show(values)} and ids {show(ids)} must be alike, and the tail one value "
                f"for each of their rows, not {show(tail)}"
            )
        if values[-1] > self.classes:
            raise ShapeMismatch(f"{values[-1]} values for {self.classes} classes")
        return (*values[:-1], self.classes)

    def forward(self, *, values: Tensor, ids: Tensor, tail: Tensor) -> Tensor:
        from torch import finfo

        from kdgraph.signals._module import wide

        known = wide(values.detach())
        others = max(self.classes - values.shape[-1], 1)
        each = (wide(tail.detach()) / others).clamp_min(finfo(known.dtype).tiny).log()
        whole = each.unsqueeze(-1).expand(*each.shape, self.classes)
        return whole.to(known.dtype).scatter(-1, ids.long(), known)
