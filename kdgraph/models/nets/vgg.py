"""Small VGG networks for 32 x 32 images, as the distillation literature uses them.

Blocks, widths, pooling and initialisation follow the code released with "Contrastive
Representation Distillation" (Tian et al., ICLR 2020, github.com/HobbitLong/RepDistiller), for
images of up to 32 x 32, so that parameter counts are the ones papers report, and its files load.
Every network is a plain chain, ``block0, pool0, block1, pool1, block2, pool2, block3, block4,
avgpool, flatten, classifier``: a stretch of it can be tapped, or replaced, by one name. With a
hidden layer, ``fc1`` and ``relu`` stand in front of the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

_BLOCKS = 5


class CifarVGG(nn.Module):
    """VGG (Simonyan, Zisserman, ICLR 2015) with batch norms and one linear layer at the end.

    Args:
        depths: Convolutions of each of the five blocks.
        widths: Channels of each of the five blocks.
        in_channels: Channels of the image.
        num_classes: Number of logits.
        pools: Max-poolings, one after each of the first blocks; 3 takes 32 x 32 to 4 x 4.
        hidden: Neurons of a hidden linear layer, as the first VGGs had; 0 for none.

    Raises:
        ValueError: For other than five widths, or more than three poolings.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        in_channels: int = 3,
        num_classes: int = 10,
        pools: int = 3,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        if len(widths) != _BLOCKS or not 0 <= pools <= 3:
            raise ValueError(f"there are {_BLOCKS} widths, and 0 to 3 poolings")
        ends = [in_channels, *widths]
        self.block0 = _block(depths[0], ends[0], ends[1])
        self.pool0 = nn.MaxPool2d(2) if pools > 0 else nn.Identity()
        self.block1 = _block(depths[1], ends[1], ends[2])
        self.pool1 = nn.MaxPool2d(2) if pools > 1 else nn.Identity()
        self.block2 = _block(depths[2], ends[2], ends[3])
        self.pool2 = nn.MaxPool2d(2) if pools > 2 else nn.Identity()
        self.block3 = _block(depths[3], ends[3], ends[4])
        self.block4 = _block(depths[4], ends[4], ends[5])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(widths[-1], hidden) if hidden else None
        self.relu = nn.ReLU() if hidden else None
        self.classifier = nn.Linear(hidden or widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # every one has a bias
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of images [B, in_channels, H, W]."""
        x = self.pool0(self.block0(x))
        x = self.pool1(self.block1(x))
        x = self.pool2(self.block2(x))
        x = self.block4(self.block3(x))
        x = self.flatten(self.avgpool(x))
        if self.fc1 is not None and self.relu is not None:
            x = self.relu(self.fc1(x))
        return self.classifier(x)  # type: ignore[no-any-return]


def _block(depth: int, inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for first in [inputs, *[outputs] * (depth - 1)]:
        conv = nn.Conv2d(first, outputs, 3, padding=1)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)
