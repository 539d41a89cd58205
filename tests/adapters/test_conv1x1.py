from __future__ import annotations

import pytest
import torch
from torch import nn

from kdgraph.adapters.conv1x1 import Conv1x1
from kdgraph.spec.shapes import ShapeMismatch

S, T = (2, 256, 4, 4), (2, 512, 8, 8)


def test_changes_channels_alone() -> None:
    assert Conv1x1().shape(S, T) == (2, 512, 4, 4)
    assert Conv1x1().shape(S, (2, 16, 384)) == (2, 384, 4, 4)  # the width of tokens


def test_is_a_linear_map_of_each_position() -> None:
    conv = Conv1x1().build(S, T)
    assert isinstance(conv, nn.Conv2d)
    x = torch.randn(S)
    by_hand = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], x)
    torch.testing.assert_close(conv(x), by_hand, rtol=1e-4, atol=1e-4)


def test_starts_with_the_variance_of_its_input() -> None:
    conv = Conv1x1().build(S, T)
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert conv.bias is not None
    assert not conv.bias.any()


def test_options() -> None:
    plain = Conv1x1(bias=False).build(S, T)
    assert isinstance(plain, nn.Conv2d)
    assert plain.bias is None
    normed = Conv1x1(norm="batch").build(S, T)
    assert isinstance(normed, nn.Sequential)
    assert [type(m) for m in normed] == [nn.Conv2d, nn.BatchNorm2d]
    assert "0.bias" not in normed.state_dict()
    out = normed(torch.randn(S))
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(512), atol=1e-5, rtol=0)
    connector = Conv1x1(norm="batch", activation="relu").build(S, T)
    assert isinstance(connector, nn.Sequential)
    assert [type(m) for m in connector] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert connector(torch.randn(S)).amin() == 0


def test_wants_a_map() -> None:
    with pytest.raises(ShapeMismatch, match=r"maps \[B, C, H, W\]") as caught:
        Conv1x1().shape((2, 16, 3), T)
    assert caught.value.adapters == ("auto",)
    with pytest.raises(ShapeMismatch) as caught:
        Conv1x1().shape((2, 3), (2, 7))
    assert caught.value.adapters == ("linear",)
