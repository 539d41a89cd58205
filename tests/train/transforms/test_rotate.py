"""Rotation gives what torchvision gives, image by image."""

from __future__ import annotations

import pytest
import torch

from kdgraph.train.data._split import seeded
from kdgraph.train.data.transforms.rotate import Rotate, turned


@pytest.mark.parametrize("shape", [(3, 3, 9, 9), (3, 1, 8, 13)])
def test_as_torchvision(shape: tuple[int, ...]) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    bilinear = functional.InterpolationMode.BILINEAR
    x = torch.rand(shape, generator=seeded("rotate"))
    angles = [-37.0, 0.0, 12.5]
    expected = torch.stack(
        [functional.rotate(i, a, interpolation=bilinear) for i, a in zip(x, angles, strict=True)]
    )
    torch.testing.assert_close(turned(x, torch.tensor(angles).deg2rad()), expected)


def test_angles_are_spread_and_small() -> None:
    bar = torch.zeros(300, 1, 15, 15)
    bar[..., 7, 12] = 1  # a point right of the centre
    after = Rotate(degrees=30).image(bar, seeded("t"))[:, 0]
    row = (after * torch.arange(15.0)[:, None]).sum((1, 2)) / after.sum((1, 2))
    assert float(row.max()) == pytest.approx(7 + 5 * 0.5, abs=0.3)
    assert float(row.min()) == pytest.approx(7 - 5 * 0.5, abs=0.3)
    assert float(row.mean()) == pytest.approx(7, abs=0.3)
