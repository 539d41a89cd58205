"""How large the batches are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Sizes:
    """Sizes of one run.

    Attributes:
        device: where both sides run.
        images, side: a batch for the convolutional networks.
        patches, patched_side: a batch of images for the transformers.
        logits: rows and classes of the losses between logits.
        maps: the maps of the spatial correlation, [B, C, H, W].
        classes: of the image models.
        teacher: a ResNet of torchvision; its student is a ResNet-18.
        vit: settings of both transformers.
    """

    device: torch.device
    images: int = 16
    side: int = 96
    patches: int = 4
    patched_side: int = 224
    logits: tuple[int, int] = (512, 1000)
    maps: tuple[int, int, int, int] = (2, 64, 64, 128)
    classes: int = 1000
    teacher: str = "resnet50"
    vit: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """For the results file."""
        return {
            "images": [self.images, 3, self.side, self.side],
            "images of the transformers": [self.patches, 3, self.patched_side, self.patched_side],
            "logits": list(self.logits),
            "maps": list(self.maps),
        }


def sizes(device: torch.device) -> Sizes:
    """What two cores step in a second, or what keeps a GPU busy."""
    if device.type == "cuda":
        return Sizes(
            device,
            images=128,
            side=224,
            patches=128,
            logits=(8192, 1000),
            maps=(8, 64, 64, 128),
        )
    return Sizes(device)
