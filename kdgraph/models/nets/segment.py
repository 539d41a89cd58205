"""Small fully convolutional networks for segmentation, in the two classic forms.

Both read ``encoder, decoder, classifier``, and give logits at the resolution of the image. The
stages of the encoder, ``encoder.0`` to ``encoder.3``, give maps at 1/4, 1/8, 1/16 and 1/32 of it
with 16, 32, 64 and 128 channels. Tap ``encoder.3`` for what was understood, ``decoder`` for
features in which every pixel knows its surroundings, ``classifier`` for logits before they are
enlarged, and ``output`` for logits [B, K, H, W].

Shapes: B batch, K classes, H and W of the image, any size (32 and up makes sense).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

_CHANNELS = (16, 32, 64, 128)


def _block(inputs: int, outputs: int, strides: tuple[int, int] = (1, 1)) -> nn.Sequential:
    """conv, norm, relu, conv, norm, relu."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=strides[0], padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, stride=strides[1], padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class UNetDecoder(nn.Module):
    """From the deepest stage up: enlarge, put beside the stage above, convolve.

    After Ronneberger, Fischer, Brox 2015 (arXiv 1505.04597), with bilinear enlarging.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        pairs = list(zip(channels[1:], channels[:-1], strict=True))[::-1]
        self.blocks = nn.ModuleList(_block(deep + wide, wide) for deep, wide in pairs)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Features [B, C_0, H / 4, W / 4] of the maps of all stages, the largest first."""
        x = stages[-1]
        for block, stage in zip(self.blocks, stages[-2::-1], strict=True):
            x = block(torch.cat([stage, _enlarged(x, stage)], 1))
        return x


class FCNDecoder(nn.Module):
    """From the deepest stage up: enlarge and add the stage above, one convolution each.

    After FCN-8s (Long, Shelhamer, Darrell 2015, arXiv 1411.4038), where what is added are
    logits. Like that network it stops at an eighth of the image, here the second stage.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(c, channels[1], 1) for c in channels[1:])
        self.norm = nn.BatchNorm2d(channels[1])
        self.relu = nn.ReLU()

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Features [B, C_1, H / 8, W / 8] of the maps of all stages, the largest first."""
        second, third, fourth = (r(x) for r, x in zip(self.reduce, stages[1:], strict=True))
        x = third + _enlarged(fourth, third)
        return self.relu(self.norm(second + _enlarged(x, second)))  # type: ignore[no-any-return]


class _Network(nn.Module):
    """An encoder of four stages, a decoder, one linear classifier for every pixel."""

    decoder: nn.Module
    classifier: nn.Module

    def __init__(self, in_channels: int, width: float) -> None:
        super().__init__()
        self.channels = [max(1, round(width * c)) for c in _CHANNELS]
        pairs = zip([in_channels, *self.channels[:-1]], self.channels, strict=True)
        strides = [(2, 2), (2, 1), (2, 1), (2, 1)]
        blocks = (_block(i, o, s) for (i, o), s in zip(pairs, strides, strict=True))
        self.encoder = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K, H, W] of images [B, in_channels, H, W]."""
        stages = [x]
        for stage in self.encoder:
            stages.append(stage(stages[-1]))
        return _enlarged(self.classifier(self.decoder(stages[1:])), x)


class UNet(_Network):
    """The larger one: the decoder has as many layers as the encoder.

    Args:
        num_classes: number of logits of a pixel.
        in_channels: channels of the image.
        width: factor on the channels, 16 to 128 from stage to stage.
    """

    def __init__(self, *, num_classes: int = 11, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__(in_channels, width)
        self.decoder = UNetDecoder(self.channels)
        self.classifier = nn.Conv2d(self.channels[0], num_classes, 1)


class FCN(_Network):
    """The smaller one: the decoder is one 1 x 1 convolution a stage.

    Args:
        num_classes: number of logits of a pixel.
        in_channels: channels of the image.
        width: factor on the channels, 16 to 128 from stage to stage.
    """

    def __init__(self, *, num_classes: int = 11, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__(in_channels, width)
        self.decoder = FCNDecoder(self.channels)
        self.classifier = nn.Conv2d(self.channels[1], num_classes, 1)
