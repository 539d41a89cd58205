"""Brightness and contrast change as torchvision changes them, image by image."""

from __future__ import annotations

import pytest
import torch

from kdgraph.train.data._split import seeded
from kdgraph.train.data.transforms.color_jitter import ColorJitter, jittered


@pytest.mark.parametrize("channels", [1, 3])
def test_as_torchvision(channels: int) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    x = torch.rand(4, channels, 5, 6, generator=seeded("jitter"))
    factors = torch.tensor([[0.7, 1.0, 1.3, 1.2], [1.4, 0.6, 1.0, 1.1]])
    expected = torch.stack([
        functional.adjust_contrast(functional.adjust_brightness(i, b), c)
        for i, b, c in zip(x, *factors.tolist(), strict=True)
    ])  # fmt: skip
    torch.testing.assert_close(jittered(x, *factors), expected)


def test_factors_are_drawn_within_bounds() -> None:
    grey = torch.full((300, 1, 2, 2), 0.5)  # one colour: contrast changes nothing
    light = ColorJitter(brightness=0.4).image(grey, seeded("t"))[:, 0, 0, 0]
    assert 0.3 <= float(light.min()) < 0.32
    assert 0.68 < float(light.max()) <= 0.7
    assert torch.equal(ColorJitter(brightness=0, contrast=0).image(grey, seeded("t")), grey)
