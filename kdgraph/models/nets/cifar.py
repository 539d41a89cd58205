"""Small residual networks for 32 x 32 images, as the distillation literature uses them.

Widths, shortcuts and initialisation follow the code released with "Contrastive Representation
Distillation" (Tian et al., ICLR 2020, github.com/HobbitLong/RepDistiller), so that parameter
counts are the ones papers report, and its ResNet files load. Every network reads
``conv1, layer1, layer2, layer3, avgpool, flatten, fc``: tap ``layer1`` to ``layer3`` for feature
maps, ``flatten`` for the penultimate feature [B, C], and ``output`` for the logits [B, K].

Shapes: B batch, C channels of the last stage, K classes. Any image size works; 32 x 32 gives
maps of 32 x 32, 16 x 16 and 8 x 8.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """conv, norm, relu, conv, norm, plus the shortcut, relu (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.downsample(x))  # type: ignore[no-any-return]


class PreActivationBlock(nn.Module):
    """norm, relu, conv, norm, relu, dropout, conv, plus the shortcut.

    Zagoruyko and Komodakis, BMVC 2016; there is no layer for a dropout of 0.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.conv2 = _conv3x3(outputs, outputs)
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None
        )

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        out = self.relu2(self.bn2(self.conv1(active)))
        out = self.conv2(out if self.dropout is None else self.dropout(out))
        # A shortcut that changes the width reads the activated input, one that does not, x itself.
        return out + (x if self.shortcut is None else self.shortcut(active))  # type: ignore[no-any-return]


def _stage(
    block: type[BasicBlock] | type[PreActivationBlock],
    blocks: int,
    inputs: int,
    outputs: int,
    stride: int,
    **more: float,
) -> nn.Sequential:
    first = block(inputs, outputs, stride, **more)
    return nn.Sequential(first, *(block(outputs, outputs, 1, **more) for _ in range(blocks - 1)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class CifarResNet(nn.Module):
    """ResNet of depth 6 n + 2 with three stages of n `BasicBlock` each.

    Args:
        depth: Number of layers with weights, 6 n + 2.
        widths: Channels of the stem and of the three stages.
        in_channels: Channels of the image.
        num_classes: Number of logits.
        width: Factor on the channels, for networks smaller than the literature's.
        dropout: Share of the penultimate feature that is dropped; no layer for 0.
    """

    def __init__(
        self,
        depth: int,
        widths: Sequence[int],
        *,
        in_channels: int = 3,
        num_classes: int = 10,
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        stem, first, second, third = (max(1, round(width * channels)) for channels in widths)
        self.conv1 = _conv3x3(in_channels, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.layer1 = _stage(BasicBlock, blocks, stem, first, stride=1)
        self.layer2 = _stage(BasicBlock, blocks, first, second, stride=2)
        self.layer3 = _stage(BasicBlock, blocks, second, third, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.fc = nn.Linear(third, num_classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of images [B, in_channels, H, W]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.flatten(self.avgpool(x))
        return self.fc(x if self.dropout is None else self.dropout(x))  # type: ignore[no-any-return]


class CifarWideResNet(nn.Module):
    """Wide ResNet of depth 6 n + 4 with three stages of n `PreActivationBlock` each.

    Args:
        depth: Number of layers with weights, 6 n + 4.
        factor: How much wider than 16, 32, 64 channels the stages are.
        in_channels: Channels of the image.
        num_classes: Number of logits.
        dropout: Share that is dropped between the convolutions of each block; no layer for 0.
    """

    def __init__(
        self,
        depth: int,
        factor: int,
        *,
        in_channels: int = 3,
        num_classes: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        first, second, third = 16 * factor, 32 * factor, 64 * factor
        self.conv1 = _conv3x3(in_channels, 16)
        self.layer1 = _stage(PreActivationBlock, blocks, 16, first, stride=1, dropout=dropout)
        self.layer2 = _stage(PreActivationBlock, blocks, first, second, stride=2, dropout=dropout)
        self.layer3 = _stage(PreActivationBlock, blocks, second, third, stride=2, dropout=dropout)
        self.bn1 = nn.BatchNorm2d(third)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(third, num_classes)
        self.apply(_initialise)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of images [B, in_channels, H, W]."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = self.relu(self.bn1(x))
        return self.fc(self.flatten(self.avgpool(x)))  # type: ignore[no-any-return]
