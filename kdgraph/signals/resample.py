"""Resample: a sequence at another number of positions, for networks of another frame rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, rank, same_batch

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Resample(Signal):
    """A sequence [B, L, D] with as many positions as ``like`` [B, L', ...] has.

    Positions are spread evenly over the same span of time, padding included: ``linear`` mixes
    the two nearest, ``nearest`` takes one. For a teacher whose frames are half as many as the
    student's, say; of log-probabilities or features as well as of logits.
    """

    use: Literal["resample"] = "resample"
    of: Ref
    like: Ref
    mode: Literal["linear", "nearest"] = "linear"

    def shape(self, *, of: Shape, like: Shape) -> Shape:
        rank("resample works on sequences [B, L, D]: the tensor", of, 3)
        rank("the sequence to be like", like, 2, 3)
        same_batch(of, like)
        return (of[0], like[1], of[2])

    def forward(self, *, of: Tensor, like: Tensor) -> Tensor:
        from torch.nn.functional import interpolate

        from kdgraph.signals._module import wide

        mode = "linear" if self.mode == "linear" else "nearest-exact"
        return interpolate(wide(of).transpose(1, 2), like.shape[1], mode=mode).transpose(1, 2)
