"""Tokens to map: a transformer's tokens laid out as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdgraph.adapters.base import Adapter
from kdgraph.spec.entry import register_adapter
from kdgraph.spec.shapes import Shape, fitting_adapters, grid, rank
from kdgraph.spec.types import Count

if TYPE_CHECKING:
    from torch import nn


@register_adapter
class TokensToMap(Adapter):
    """Lays tokens [B, L, D] out as a map [B, D, H, W], row by row, without the first ``skip``.

    ``skip`` counts class and register tokens. The map is square unless ``size: [H, W]`` says
    otherwise. A channels-last map [B, H, W, D] becomes [B, D, H, W].
    """

    use: Literal["tokens_to_map"] = "tokens_to_map"
    skip: Annotated[int, Field(ge=0)] = 0
    size: Annotated[tuple[Count, Count], Field(strict=False)] | None = None

    def shape(self, student: Shape, teacher: Shape) -> Shape:
        what = "tokens_to_map works on [B, L, D] or [B, H, W, D]: the student"
        rank(what, student, 3, 4, adapters=fitting_adapters(student, teacher))
        if len(student) == 4:
            return (student[0], student[3], *student[1:3])
        return (student[0], student[2], *grid(student[1], self.skip, self.size))

    def build(self, student: Shape, teacher: Shape) -> nn.Module:
        from kdgraph.adapters import _modules

        *_, height, width = self.shape(student, teacher)
        return _modules.TokensToMap((height, width), self.skip)
