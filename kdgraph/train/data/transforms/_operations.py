"""Single operations on images of bytes, with the strengths of ``jda``."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

STEPS = 9  # strengths are 0 .. 9
_GREY = 128
_SIDE = 150 / 331  # of AutoAugment: 150 pixels of its ImageNet crops

Operate = Callable[[Tensor, float], Tensor]


def operate(images: Tensor, operation: str, strength: int, signs: Tensor) -> Tensor:
    """One operation on bytes [N, C, H, W] at strength 0 .. 9, with a sign [N] for each image.

    What has no direction takes no notice of the signs.
    """
    share = strength / STEPS
    if operation in _PLAIN:
        return _PLAIN[operation](images, share)
    changed = images.clone()
    for sign in (1, -1):
        if len(rows := (signs == sign).nonzero().flatten()):
            changed[rows] = _SIGNED[operation](images[rows], sign * share)
    return changed


def _moved(images: Tensor, **how: object) -> Tensor:
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    fill: list[float] = [_GREY] * images.shape[1]
    moved: Tensor = F.affine(images, **{**still, **how}, fill=fill)
    return moved


def _sheared(images: Tensor, x: float, y: float) -> Tensor:
    """Bicubic, which is for pictures of Pillow only; the origin is the corner, as with its own."""
    angles = [math.degrees(math.atan(v)) for v in (x, y)]
    how = {"shear": angles, "center": [0, 0], "interpolation": InterpolationMode.BICUBIC}
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "fill": _GREY}
    pictures = (F.affine(F.to_pil_image(i), **{**still, **how}) for i in images)
    return torch.stack([F.pil_to_tensor(p) for p in pictures])


# by the strength as a share of the greatest
_PLAIN: dict[str, Operate] = {
    "autocontrast": lambda images, share: F.autocontrast(images),
    "equalize": lambda images, share: F.equalize(images),
    "invert": lambda images, share: F.invert(images),
    "posterize": lambda images, share: F.posterize(images, round(8 - 4 * share)),
    "rotate": lambda images, share: F.rotate(images, 30 * share, fill=[_GREY] * images.shape[1]),
    # 256, beyond every byte, would not fit into one
    "solarize": lambda images, share: F.solarize(images, 256 * (1 - share)) if share else images,
}
# by that share, less than 0 in the other direction
_SIGNED: dict[str, Operate] = {
    "brightness": lambda images, share: F.adjust_brightness(images, 1 + 0.9 * share),
    "color": lambda images, share: F.adjust_saturation(images, 1 + 0.9 * share),
    "contrast": lambda images, share: F.adjust_contrast(images, 1 + 0.9 * share),
    "sharpness": lambda images, share: F.adjust_sharpness(images, 1 + 0.9 * share),
    "shear_x": lambda images, share: _sheared(images, 0.3 * share, 0),
    "shear_y": lambda images, share: _sheared(images, 0, 0.3 * share),
    "translate_x": lambda images, share: _moved(
        images, translate=[_SIDE * share * images.shape[3], 0]
    ),
    "translate_y": lambda images, share: _moved(
        images, translate=[0, _SIDE * share * images.shape[2]]
    ),
}
