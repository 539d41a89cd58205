"""Sequence mask: which positions of a padded batch are there at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, rank, show

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class SequenceMask(Signal):
    """``[position < length]``: the mask [B, L] of sequences padded at their end.

    ``lengths`` [B] count positions from the first; ``like`` is any tensor [B, L] or [B, L, ...]
    of the padded batch (logits, token numbers), of which only the size L is read. True where a
    position counts, as ``mask`` of a loss takes it.
    """

    use: Literal["sequence_mask"] = "sequence_mask"
    lengths: Ref
    like: Ref

    def shape(self, *, lengths: Shape, like: Shape) -> Shape:
        rank("sequence_mask needs lengths [B]: they", lengths, 1)
        if len(like) < 2 or like[0] != lengths[0]:
            raise ShapeMismatch(
                f"lengths {show(lengths)} fit no sequences [B, L, ...] of {show(like)}"
            )
        return like[:2]

    def forward(self, *, lengths: Tensor, like: Tensor) -> Tensor:
        from torch import arange

        return arange(like.shape[1], device=like.device) < lengths.unsqueeze(1)
