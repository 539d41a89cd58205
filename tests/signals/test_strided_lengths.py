from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kdgraph.signals.strided_lengths import StridedLengths
from kdgraph.spec.shapes import ShapeMismatch

SHAPES = [(4,)]


def inputs(shape: Any) -> dict[str, torch.Tensor]:
    return {"of": torch.arange(shape[0]) * 5}


@pytest.mark.parametrize("width", [3, 5])
@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_it_is_the_length_behind_convolutions(width: int, halvings: int) -> None:
    conv = nn.Conv1d(1, 1, width, stride=2, padding=width // 2)
    lengths = torch.arange(1, 20)
    found = StridedLengths(of="frames", stride=2**halvings).forward(of=lengths)
    assert found.dtype == torch.int64
    for length, expected in zip(lengths.tolist(), found.tolist(), strict=True):
        x = torch.zeros(1, 1, length)
        for _ in range(halvings):
            x = conv(x)
        assert x.shape[2] == expected


def test_nothing_stays_nothing() -> None:
    assert StridedLengths(of="frames", stride=4).forward(of=torch.tensor([0])).tolist() == [0]


def test_only_lengths() -> None:
    with pytest.raises(ShapeMismatch, match=r"lengths \[B\]"):
        StridedLengths(of="frames", stride=2).shape(of=(3, 4))
