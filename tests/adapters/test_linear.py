from __future__ import annotations

import pytest
import torch
from torch import nn

from kdgraph.adapters.linear import Linear
from kdgraph.spec.entry import ADAPTERS
from kdgraph.spec.shapes import Shape, ShapeMismatch


@pytest.mark.parametrize(
    ("student", "teacher", "shape"),
    [
        ((2, 3), (2, 7), (2, 7)),
        ((2, 5, 3), (2, 5, 7), (2, 5, 7)),
        ((2, 4, 3), (2, 7, 2, 2), (2, 4, 7)),  # the channels of a map
        ((2, 4, 4, 3), (2, 4, 4, 7), (2, 4, 4, 7)),
    ],
)
def test_changes_the_last_dimension(student: Shape, teacher: Shape, shape: Shape) -> None:
    assert Linear().shape(student, teacher) == shape


def test_parameters() -> None:
    layer = Linear().build((2, 256), (2, 512))
    assert isinstance(layer, nn.Linear)
    assert layer.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert torch.equal(layer.bias, torch.zeros(512))
    bare = Linear(bias=False).build((2, 3), (2, 7))
    assert list(bare.state_dict()) == ["weight"]


@pytest.mark.parametrize(
    ("teacher", "adapter"),
    [
        ((2, 7, 4, 4), "conv1x1"),
        ((2, 7, 8, 8), "auto"),
        ((2, 3, 8, 8), "resize"),
        ((2, 16, 3), "map_to_tokens"),
        ((2, 3), "pool"),
        ((2, 7), "auto"),
    ],
)
def test_suggests_what_fits_for_maps(teacher: Shape, adapter: str) -> None:
    student = (2, 3, 4, 4)
    with pytest.raises(ShapeMismatch, match="channels-last") as caught:
        Linear().shape(student, teacher)
    assert caught.value.adapters == (adapter,)
    suggested = ADAPTERS.get(adapter)()
    assert suggested.resolve(student, teacher).shape(student, teacher) == teacher
