"""Resize: a map at another resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, rank

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Resize(Signal):
    """A map [B, C, H, W] at the height and width of another.

    The adapter of this name does so to the student of a link. ``like`` names a map [B, C, H, W]
    or labels [B, H, W]. Logits are resized before any softmax or argmax. Modes: ``bilinear``
    (corners not aligned), ``nearest``, ``area``.
    """

    use: Literal["resize"] = "resize"
    of: Ref
    like: Ref
    mode: Literal["bilinear", "nearest", "area"] = "bilinear"

    def shape(self, *, of: Shape, like: Shape) -> Shape:
        rank("resize works on maps [B, C, H, W]: the tensor", of, 4)
        rank("resize takes the size of maps or of labels [B, H, W]: 'like'", like, 3, 4)
        return (*of[:2], *like[-2:])

    def forward(self, *, of: Tensor, like: Tensor) -> Tensor:
        from torch.nn.functional import interpolate

        from kdgraph.signals._module import wide

        align = False if self.mode == "bilinear" else None
        return interpolate(
            wide(of), size=tuple(like.shape[-2:]), mode=self.mode, align_corners=align
        )
