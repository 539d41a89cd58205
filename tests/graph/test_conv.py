"""The fused convolution: packed and plain, it computes the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional

from kdgraph.graph.conv import ACTIVATIONS, FusedConv2d


def convolution(**options: Any) -> FusedConv2d:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 4, 3, 3, generator=random)
    return FusedConv2d(
        weight, torch.randn(8, generator=random), [1, 1], [1, 1], [1, 1], 1, **options
    )


@pytest.mark.parametrize(
    ("name", "added"), [*((n, False) for n in ACTIVATIONS), ("none", True), ("relu", True)]
)
def test_packed_and_plain_convolutions_agree(name: str, added: bool) -> None:
    conv = convolution(activation=name)
    x = torch.randn(2, 4, 9, 9)
    other = torch.randn(2, 8, 9, 9) if added else None
    packed = conv(x, other)
    assert conv._packed is not None
    with torch.backends.mkldnn.flags(enabled=False):
        plain = conv(x, other)
    torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-5)
    assert packed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (3, 4, 1, 5), (2, 4, 1, 1), (0, 4, 5, 5)])
def test_maps_of_any_size(shape: tuple[int, ...]) -> None:
    conv, x = convolution(activation="relu"), torch.randn(shape)
    other = torch.randn(shape[0], 8, *shape[2:])
    plain = functional.conv2d(x, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), plain.relu())
    torch.testing.assert_close(conv(x, other), (plain + other).relu())


def test_a_packed_weight_follows_the_plain_one() -> None:
    conv, x = convolution(), torch.randn(2, 4, 9, 9)
    before = conv(x)
    conv.weight.mul_(2)
    torch.testing.assert_close(conv(x) - before, functional.conv2d(x, conv.weight / 2, padding=1))
    twin = copy.deepcopy(conv)
    torch.testing.assert_close(twin(x), conv(x))
    assert conv.to(torch.float64)(x.double()).dtype == torch.float64
    assert conv._packed is None
