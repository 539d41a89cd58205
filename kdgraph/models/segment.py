"""``segment/NAME``: small networks that give every pixel a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdgraph.models.base import Source, register_source

if TYPE_CHECKING:
    from torch import nn


@register_source
class SegmentSource(Source):
    """kdgraph's own encoder-decoder networks, ``unet`` and ``fcn``, for images of 32 pixels and up.

    ``args``: ``num_classes`` (default 11), ``in_channels`` (default 3) and ``width``, a factor on
    the channels. There are no pretrained weights.
    """

    prefix = "segment"

    def build(self, name: str, args: Mapping[str, Any]) -> nn.Module:
        if name not in self.names():
            raise self.unknown(name)
        from kdgraph.models.nets import segment

        return {"unet": segment.UNet, "fcn": segment.FCN}[name](**args)

    def names(self) -> list[str]:
        return ["unet", "fcn"]
