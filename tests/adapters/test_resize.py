from __future__ import annotations

import pytest
import torch

from kdgraph.adapters.resize import Resize
from kdgraph.spec.shapes import ShapeMismatch


def _resize(entry: Resize, x: torch.Tensor, h: int, w: int) -> torch.Tensor:
    out = entry.build(tuple(x.shape), (1, 1, h, w))(x)
    assert isinstance(out, torch.Tensor)
    return out


def test_bilinear_does_not_align_corners() -> None:
    x = torch.tensor([[[[0.0, 4.0]]]])
    assert _resize(Resize(), x, 1, 4).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]


def test_area_is_the_mean_of_each_cell() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    cells = _resize(Resize(mode="area"), x, 2, 2).flatten().tolist()
    assert cells == [2.5, 4.5, 10.5, 12.5]


def test_nearest_repeats() -> None:
    x = torch.tensor([[[[0.0, 4.0]]]])
    assert _resize(Resize(mode="nearest"), x, 1, 4).flatten().tolist() == [0, 0, 4, 4]


def test_wants_two_maps() -> None:
    with pytest.raises(ShapeMismatch, match="the student must have 4"):
        Resize().shape((1, 4, 8), (1, 1, 2, 2))
    with pytest.raises(ShapeMismatch, match="the teacher must have 4"):
        Resize().shape((1, 1, 2, 2), (1, 4, 8))
