"""Tokens to map: a transformer teacher's tokens laid out as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, grid, rank
from kdgraph.spec.types import Count

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class TokensToMap(Signal):
    """Tokens [B, L, D] as a map [B, D, H, W], row by row, without the first ``skip``.

    The adapter of this name does the same to a student. ``skip`` counts class and register
    tokens; the map is square unless ``size: [H, W]`` says otherwise. A channels-last map
    [B, H, W, D] becomes [B, D, H, W].
    """

    use: Literal["tokens_to_map"] = "tokens_to_map"
    of: Ref
    skip: Annotated[int, Field(ge=0)] = 0
    size: Annotated[tuple[Count, Count], Field(strict=False)] | None = None

    def shape(self, *, of: Shape) -> Shape:
        rank("tokens_to_map works on [B, L, D] or [B, H, W, D]: the tensor", of, 3, 4)
        if len(of) == 4:
            return (of[0], of[3], *of[1:3])
        return (of[0], of[2], *grid(of[1], self.skip, self.size))

    def forward(self, *, of: Tensor) -> Tensor:
        import torch

        if of.dim() == 4:
            return of.movedim(3, 1)
        size = grid(of.shape[1], self.skip, self.size)
        return torch.unflatten(of[:, self.skip :].transpose(1, 2), 2, size)
