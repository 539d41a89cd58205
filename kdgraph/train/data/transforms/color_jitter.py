"""Color jitter: brightness and contrast changed at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.spec.transforms import register_transform
from kdgraph.spec.types import Fraction
from kdgraph.train.data.transforms.base import ImageTransform

if TYPE_CHECKING:
    from torch import Generator, Tensor

_GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision has it


@register_transform
class ColorJitter(ImageTransform):
    """``x = b x``, then ``x = c x + (1 - c) mean``: factors drawn for each image by itself.

    ``b`` lies evenly within 1 +- ``brightness``, ``c`` within 1 +- ``contrast``; the mean is that
    of the grey image, and values stay within 0 .. 1. The numbers are those of ``adjust_brightness``
    and ``adjust_contrast`` of torchvision, for all images at once.
    """

    use: Literal["color_jitter"] = "color_jitter"

    brightness: Fraction = 0.2
    """The largest change of the brightness."""

    contrast: Fraction = 0.2
    """The largest change of the contrast."""

    def image(self, x: Tensor, chance: Generator) -> Tensor:
        import torch

        drawn = 2 * torch.rand(2, len(x), generator=chance) - 1
        return jittered(x, 1 + self.brightness * drawn[0], 1 + self.contrast * drawn[1])


def jittered(x: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Images [B, C, H, W] from 0 to 1 with one factor [B] of each kind."""
    b, c = (factor.to(x.dtype).view(-1, 1, 1, 1) for factor in (brightness, contrast))
    x = (b * x).clamp(0, 1)
    grey = x
    if x.shape[1] == 3:
        grey = (x * x.new_tensor(_GREY).view(3, 1, 1)).sum(1, keepdim=True)
    mean = grey.mean((1, 2, 3), keepdim=True)
    return (c * x + (1 - c) * mean).clamp(0, 1)
