"""The student of KDExplainer: a tree of convolutional blocks with a head for each class.

Xue et al. 2021 (arXiv 2105.04181); sizes follow the authors' program (github.com/xmq1221/
KDExplainer). Levels of 2, 4 and 8 blocks; every block of a level, and every head, reads its own
mixture of the blocks above, with shares that depend on no input. It reads ``levels.0, routes.0,
levels.1, routes.1, levels.2, pool, routes.2, heads``: tap ``levels.2`` for maps [B, N, C, H, W]
of N blocks, ``routes.0.log_rows`` for the logarithms of the shares [children, parents],
``heads`` for what each head says [B, K, 1 or 2], and ``output`` for the logits [B, K].

The blocks of a level are computed together, as convolutions in groups.

Shapes: B batch, K classes, H and W of the image, at least 2 for each level to halve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Form = Literal["ce", "nce", "binary"]


class LogRows(nn.Module):
    """The logarithms of the shares in which children read their parents, [children, parents].

    The authors' ``softmax(log(softmax(b / 0.5)) / t)`` with ``t = 10 / epoch``, which is
    ``softmax(b epoch / 5)``; or, hard, all of the parent with the largest ``b``.
    """

    def __init__(self, parents: int, children: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.empty(children, parents))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Logits from 0 to 1."""
        nn.init.uniform_(self.logits)

    def forward(self, epoch: Tensor, hard: Tensor) -> Tensor:
        soft = (self.logits * epoch / 5).log_softmax(1)
        parents = torch.arange(self.logits.shape[1], device=soft.device)
        best = parents == self.logits.argmax(1, keepdim=True)
        return torch.where(hard, best.to(soft.dtype).log(), soft)


class Route(nn.Module):
    """What children read: ``x_i = sum_j d_ij F_j``."""

    def __init__(self, parents: int, children: int) -> None:
        super().__init__()
        self.log_rows = LogRows(parents, children)

    def forward(self, x: Tensor, epoch: Tensor, hard: Tensor) -> Tensor:
        """[B, children, ...] of parents [B, parents, ...]."""
        mixed: Tensor = self.log_rows(epoch, hard).exp() @ x.flatten(2)
        return mixed.reshape(mixed.shape[:2] + x.shape[2:])


class Level(nn.Module):
    """Blocks side by side: conv, norm, relu, conv, norm, relu, and the maximum of 2 x 2 pixels."""

    def __init__(self, blocks: int, inputs: int, inner: int, outputs: int, *, alike: bool) -> None:
        super().__init__()
        self.blocks = blocks
        groups = 1 if alike else blocks
        self.conv1 = nn.Conv2d(inputs * groups, inner * blocks, 3, padding=1, groups=groups)
        self.bn1 = nn.BatchNorm2d(inner * blocks)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner * blocks, outputs * blocks, 3, padding=1, groups=blocks)
        self.bn2 = nn.BatchNorm2d(outputs * blocks)
        self.relu2 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C, H / 2, W / 2] of N blocks, from what each reads or the image that all read."""
        x = x.flatten(1, -3)  # blocks and channels; an image has channels alone
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.pool(self.relu2(self.bn2(self.conv2(x))))
        return x.unflatten(1, (self.blocks, -1))  # type: ignore[no-any-return, no-untyped-call]


class Heads(nn.Module):
    """A network of two hidden layers for each class, which reads features of its own."""

    def __init__(self, classes: int, features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.classes = classes

        def layer(inputs: int, outputs: int) -> nn.Conv1d:  # linear, for each class its own
            return nn.Conv1d(classes * inputs, classes * outputs, 1, groups=classes)

        self.layers = nn.Sequential(
            layer(features, hidden), nn.ReLU(), nn.Dropout(0.15),
            layer(hidden, hidden), nn.ReLU(), nn.Dropout(0.15),
            layer(hidden, outputs),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[B, K, outputs] of features [B, K, ...]."""
        return self.layers(x.flatten(1).unsqueeze(2)).reshape(x.shape[0], self.classes, -1)  # type: ignore[no-any-return]


class Tree(nn.Module):
    """The whole tree. Two buffers move without another graph: ``epoch`` and ``hard``.

    Args:
        num_classes: heads, and logits.
        in_channels: channels of the image.
        form: how a logit comes from a head: ``ce``, its only unit; ``nce``, the larger of two;
            ``binary``, the first of two less the second, the log-odds of "this class".
        width: factor on the channels of blocks (64, of the last level 32) and on the hidden
            units of heads (128).
        pool: maps are averaged to so many pixels in height and width for the heads.
        blocks: of each level.
    """

    epoch: Tensor
    hard: Tensor

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        form: Form = "ce",
        width: float = 1.0,
        pool: int = 7,
        blocks: Sequence[int] = (2, 4, 8),
    ) -> None:
        super().__init__()
        if form not in ("ce", "nce", "binary"):
            raise ValueError(f"form is 'ce', 'nce' or 'binary', not {form!r}")
        inner, last, hidden = (max(1, round(width * size)) for size in (64, 32, 128))
        outputs = [inner] * (len(blocks) - 1) + [last]
        inputs = [in_channels, *outputs[:-1]]
        self.form = form
        self.levels = nn.ModuleList(
            Level(count, read, inner, given, alike=at == 0)
            for at, (count, read, given) in enumerate(zip(blocks, inputs, outputs, strict=True))
        )
        children = [*blocks[1:], num_classes]
        self.routes = nn.ModuleList(Route(*pair) for pair in zip(blocks, children, strict=True))
        self.pool = Pool(pool)
        self.heads = Heads(num_classes, last * pool**2, hidden, 1 if form == "ce" else 2)
        self.register_buffer("epoch", torch.ones(()))
        self.register_buffer("hard", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of images [B, in_channels, H, W]."""
        for level, route in zip(self.levels[:-1], self.routes[:-1], strict=True):
            x = route(level(x), self.epoch, self.hard)
        x = self.pool(self.levels[-1](x))
        units: Tensor = self.heads(self.routes[-1](x, self.epoch, self.hard))
        if self.form == "binary":
            return units[:, :, 0] - units[:, :, 1]
        return units.amax(2)


class Pool(nn.Module):
    """The mean over parts of the map of each block."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean = nn.AdaptiveAvgPool2d(size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C, size, size] of maps [B, N, C, H, W]."""
        pooled: Tensor = self.mean(x.flatten(1, 2))
        return pooled.reshape(x.shape[:3] + pooled.shape[2:])
