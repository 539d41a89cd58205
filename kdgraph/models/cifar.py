"""``cifar/NAME``: the small networks of the distillation literature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdgraph.models.base import Source, register_source

if TYPE_CHECKING:
    from torch import nn

_NARROW = (16, 16, 32, 64)
_WIDE = (32, 64, 128, 256)

# name: depth, channels of the stem and of the three stages
_RESNETS = {f"resnet{depth}": (depth, _NARROW) for depth in (8, 14, 20, 32, 44, 56, 110)} | {
    "resnet8x4": (8, _WIDE),
    "resnet32x4": (32, _WIDE),
}
# name: depth, widening factor
_WIDE_RESNETS = {"wrn-16-1": (16, 1), "wrn-16-2": (16, 2), "wrn-40-1": (40, 1), "wrn-40-2": (40, 2)}
# name: convolutions of each of the five blocks
_VGGS = {"vgg8": (1, 1, 1, 1, 1), "vgg13": (2, 2, 2, 2, 2)}


@register_source
class CifarSource(Source):
    """kdgraph's own ResNets, Wide ResNets and VGGs for small images.

    ``args``: ``num_classes`` (default 10), ``in_channels`` (default 3) and, but for VGGs,
    ``dropout`` (default 0: in the blocks of Wide ResNets, in front of the classifier of ResNets);
    the ResNets also take ``width``, a factor on their channels, and the VGGs ``widths``, the
    channels of their five blocks, ``pools``, how many times they halve the map (default 3), and
    ``hidden``, the neurons of a linear layer ``fc1`` in front of the classifier (default 0: no
    such layer). There are no pretrained weights.
    """

    prefix = "cifar"

    def build(self, name: str, args: Mapping[str, Any]) -> nn.Module:
        if name not in self.names():
            raise self.unknown(name)
        from kdgraph.models.nets.cifar import CifarResNet, CifarWideResNet
        from kdgraph.models.nets.vgg import CifarVGG

        if name in _VGGS:
            return CifarVGG(_VGGS[name], **args)
        if name in _RESNETS:
            return CifarResNet(*_RESNETS[name], **args)
        return CifarWideResNet(*_WIDE_RESNETS[name], **args)

    def names(self) -> list[str]:
        return [*_RESNETS, *_WIDE_RESNETS, *_VGGS]
