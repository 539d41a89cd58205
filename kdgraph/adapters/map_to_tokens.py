"""Map to tokens: a picture read row by row, for a transformer teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.adapters.base import Adapter
from kdgraph.spec.entry import register_adapter
from kdgraph.spec.shapes import Shape, fitting_adapters, rank

if TYPE_CHECKING:
    from torch import nn


@register_adapter
class MapToTokens(Adapter):
    """Reads a map [B, C, H, W] row by row as tokens [B, H*W, C].

    For a channels-last teacher [B, H, W, D] the result is [B, H, W, C]. A map has nothing that
    stands for a class token: a teacher that has one is read through the signal ``tokens_to_map``.
    """

    use: Literal["map_to_tokens"] = "map_to_tokens"

    def shape(self, student: Shape, teacher: Shape) -> Shape:
        fits = fitting_adapters(student, teacher)
        rank("map_to_tokens works on maps [B, C, H, W]: the student", student, 4, adapters=fits)
        B, C, H, W = student
        return (B, H, W, C) if len(teacher) == 4 else (B, H * W, C)

    def build(self, student: Shape, teacher: Shape) -> nn.Module:
        from kdgraph.adapters import _modules

        return _modules.MapToTokens(grid=len(self.shape(student, teacher)) == 4)
