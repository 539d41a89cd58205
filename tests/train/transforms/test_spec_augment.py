"""Blots lie within their utterance, are as wide as they may be, and differ."""

from __future__ import annotations

import pytest
import torch

from kdgraph.train.data._split import seeded
from kdgraph.train.data.transforms.spec_augment import SpecAugment, blot


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_blots(share: float) -> None:
    lengths = torch.tensor([30, 10, 1, 0]).repeat_interleave(500)
    found = blot(lengths, 32, share, seeded("t"))
    assert not (found & (torch.arange(32) >= lengths.unsqueeze(1))).any()
    width = found.sum(1)
    assert (found.int().diff(dim=1, prepend=torch.zeros(2000, 1).int()) == 1).sum(1).max() <= 1
    for length, rows in zip((30, 10, 1, 0), width.view(4, 500), strict=True):
        widest = int(share * length)
        assert rows.min() == 0 or share == 1
        assert rows.max() == min(widest, length)
        if widest > 1:  # even over 0 .. widest
            mean = rows.float().mean().item()
            assert mean == pytest.approx(widest / 2, abs=widest / 8)
    starts = found[:500].int().argmax(1)[width[:500] > 0]
    if share == 0.2:
        assert starts.min() == 0
        assert starts.max() > 20


def test_frames_and_bands_become_nothing_and_the_rest_stays() -> None:
    x = torch.rand(50, 20, 10) + 1
    batch = {"features": x, "frames": torch.full((50,), 20)}
    after = SpecAugment(time=0.3, mels=0.3).apply(batch, seeded("t"))["features"]
    hidden = after == 0
    assert torch.equal(after[~hidden], x[~hidden])
    rows, bands = hidden.all(2), hidden.all(1)
    assert torch.equal(hidden, rows.unsqueeze(2) | bands.unsqueeze(1))
    assert rows.sum(1).max() == 6
    assert bands.sum(1).max() == 3
    assert x.min() >= 1
