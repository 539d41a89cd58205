"""A small acoustic model: convolutions over time, one row of logits for each frame.

Every network reads ``stem, blocks.0, blocks.1, ..., norm, head``: tap a block for features
[B, F, C], and ``output`` for the logits [B, F, V]. Nothing in it depends on other utterances of
the batch (there is no batch norm), nor on how far an utterance is padded: frames behind its
length are 0 wherever a convolution looks.

Shapes: B batch, T input frames, M features of each, F = ceil(T / stride) output frames, C
channels, V classes with the blank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FrameMask(nn.Module):
    """1 for frames within the length, 0 behind it: [B, F, 1] in the type of the features.

    Args:
        stride: how many input frames one of these stands for.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, like: Tensor, lengths: Tensor) -> Tensor:
        """The mask for ``like`` [B, F, C], from lengths [B] in input frames."""
        there = (lengths + self.stride - 1).div(self.stride, rounding_mode="floor")
        frames = torch.arange(like.shape[1], device=like.device)
        return (frames < there.unsqueeze(1)).unsqueeze(2).to(like.dtype)


class Stem(nn.Module):
    """Convolutions that halve the frame rate, each with ReLU: [B, T, M] to [B, F, C]."""

    def __init__(self, features: int, channels: int, halvings: int) -> None:
        super().__init__()
        inputs = [features, *[channels] * (halvings - 1)]
        self.convs = nn.ModuleList(
            nn.Conv1d(size, channels, 5, stride=2, padding=2) for size in inputs
        )
        self.masks = nn.ModuleList(FrameMask(2**done) for done in range(halvings))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Features of frames, which may hold anything behind the length."""
        for conv, mask in zip(self.convs, self.masks, strict=True):
            x = (x * mask(x, lengths)).transpose(1, 2)
            x = self.relu(conv(x)).transpose(1, 2)
        return x


class TimeBlock(nn.Module):
    """norm, convolution over time, ReLU, dropout, pointwise, dropout, plus the input.

    The convolution has ``groups`` of channels, so that most weights mix channels in one frame.
    """

    def __init__(self, channels: int, width: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv1d(channels, channels, width, padding=width // 2, groups=groups)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.pointwise = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Features [B, F, C] of frames; ``mask`` [B, F, 1] silences those behind the length."""
        y = (self.norm(x) * mask).transpose(1, 2)
        y = self.dropout(self.relu(self.conv(y).transpose(1, 2)))
        return x + self.dropout(self.pointwise(y))  # type: ignore[no-any-return]


class SpeechConvNet(nn.Module):
    """A stem that thins frames out, blocks over time, a linear head for each frame.

    Args:
        blocks: how many `TimeBlock` there are.
        mels: features of an input frame.
        num_classes: logits of an output frame, the blank among them.
        width: channels.
        stride: input frames for one output frame: 2, 4, 8, ...
        dropout: probability with which a value is dropped.
    """

    def __init__(
        self,
        blocks: int,
        *,
        mels: int = 40,
        num_classes: int = 29,
        width: int = 64,
        stride: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        halvings = stride.bit_length() - 1
        if halvings < 1 or stride != 2**halvings:
            raise ValueError(f"stride must be 2, 4, 8, ..., not {stride}")
        self.stem = Stem(mels, width, halvings)
        self.mask = FrameMask(stride)
        self.blocks = nn.ModuleList(
            TimeBlock(width, 9, max(1, width // 8), dropout) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """Logits [B, F, V] of features [B, T, M], of which ``frames`` [B] count."""
        x = self.stem(features, frames)
        mask = self.mask(x, frames)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))  # type: ignore[no-any-return]  # a module returns Any
