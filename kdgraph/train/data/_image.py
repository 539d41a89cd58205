"""From a PIL image to a tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_tensor(image: Any) -> Tensor:
    """uint8 [C, H, W]; anything but grey becomes RGB."""
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, -1).permute(2, 0, 1).contiguous()


def class_numbers(image: Any) -> Tensor:
    """int64 [H, W]: the grey values, or the places in the palette, of an image in bytes."""
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width).long()


def square(image: Any, size: int) -> Tensor:
    """The shorter side resized to ``size``, the centre kept: uint8 [C, size, size]."""
    from PIL import Image

    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return to_tensor(resized.crop((left, top, left + size, top + size)))
