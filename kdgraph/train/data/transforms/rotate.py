"""Rotate: images turned about their centre."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from kdgraph.spec.transforms import register_transform
from kdgraph.spec.types import Positive
from kdgraph.train.data.transforms.base import ImageTransform

if TYPE_CHECKING:
    from torch import Generator, Tensor


@register_transform
class Rotate(ImageTransform):
    """Turns each image by an angle drawn evenly from ``-degrees`` to ``degrees``.

    Bilinear, and black where nothing was; the numbers are those of
    ``torchvision.transforms.v2.functional.rotate``, for all images at once.
    """

    use: Literal["rotate"] = "rotate"

    degrees: Positive = 10.0
    """The largest angle either way."""

    def moves(self) -> tuple[str, ...]:
        return (self.entry,)

    def image(self, x: Tensor, chance: Generator) -> Tensor:
        import torch

        drawn = torch.rand(len(x), generator=chance)
        return turned(x, (2 * drawn - 1) * math.radians(self.degrees))


def turned(x: Tensor, angle: Tensor) -> Tensor:
    """Images [B, C, H, W] turned counter-clockwise by ``angle`` [B], in radians."""
    import torch
    from torch.nn import functional as F

    H, W = x.shape[2:]
    sin, cos, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
    # where each pixel of the result is taken from, in units of half a side
    rows = torch.stack([cos, -sin * H / W, zero, sin * W / H, cos, zero], 1)
    grid = F.affine_grid(rows.view(-1, 2, 3).to(x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)
