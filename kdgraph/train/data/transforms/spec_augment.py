"""SpecAugment: a stretch of time and a band of frequencies of each utterance blotted out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.spec.transforms import register_transform
from kdgraph.spec.types import Fraction, Name
from kdgraph.train.data.transforms.base import Batch, Scope, Transform

if TYPE_CHECKING:
    from torch import Generator, Tensor


@register_transform
class SpecAugment(Transform):
    """Sets one stretch of frames and one band of each utterance to 0, which is their mean.

    Park et al. 2019 (arXiv 1904.08779), without its warping of time. How long, and where, is
    drawn evenly and for each utterance by itself; a stretch lies within the utterance's own
    frames. Every pass of a network over a batch sees the same blots.
    """

    use: Literal["spec_augment"] = "spec_augment"

    entry: Name = "features"
    """The column of the frames, [B, T, M]."""

    lengths: Name = "frames"
    """The column that says how many frames count, [B]."""

    time: Fraction = 0.2
    """The longest stretch, as a share of the utterance."""

    mels: Fraction = 0.2
    """The widest band, as a share of M."""

    def reads(self) -> tuple[str, ...]:
        return (self.entry, self.lengths)

    def scope(self) -> Scope:
        return "row"

    def apply(self, batch: Batch, chance: Generator) -> Batch:
        x, lengths = batch[self.entry], batch[self.lengths]
        frames = blot(lengths, x.shape[1], self.time, chance)
        bands = blot(lengths.new_full(lengths.shape, x.shape[2]), x.shape[2], self.mels, chance)
        hidden = frames.unsqueeze(2) | bands.unsqueeze(1)
        return {**batch, self.entry: x.masked_fill(hidden, 0)}


def blot(lengths: Tensor, size: int, share: float, chance: Generator) -> Tensor:
    """A stretch of at most ``share`` of each length, within it: [B, size], true where it lies."""
    import torch

    wide, where = torch.rand(2, len(lengths), 1, generator=chance)
    length = lengths.unsqueeze(1)
    width = (wide * ((share * length).floor() + 1)).floor()
    start = (where * (length - width + 1)).floor()
    at = torch.arange(size)
    inside: Tensor = (at >= start) & (at < start + width)
    return inside
