from __future__ import annotations

import pytest
import torch
from torch import nn

from kdgraph.errors import ModelError
from kdgraph.models.load import build_model, build_skeleton

EXAMPLE = ("conv2", {"mels": 8, "num_classes": 5, "width": 8})


def small(stride: int = 2) -> nn.Module:
    args = {"mels": 6, "num_classes": 5, "width": 8, "stride": stride}
    return build_model("speech/conv2", args).eval()


def test_known_size() -> None:
    """Stem 40 x 64 x 5, two blocks of (norm, 64 x 8 x 9, 64 x 64), norm, head; with biases."""
    stem, norm, head = 40 * 64 * 5 + 64, 2 * 64, 64 * 29 + 29
    block = norm + 64 * 8 * 9 + 64 + 64 * 64 + 64
    net = build_skeleton("speech/conv2", {})
    assert sum(p.numel() for p in net.parameters()) == stem + 2 * block + norm + head


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("length", [1, 7, 8, 21])
def test_frames_of_the_output(stride: int, length: int) -> None:
    out = small(stride)(torch.randn(2, length, 6), torch.tensor([length, 1]))
    assert out.shape == (2, -(-length // stride), 5)


@pytest.mark.parametrize("stride", [2, 4])
def test_padding_and_neighbours_move_nothing(stride: int) -> None:
    """An utterance gives the same logits alone and in a batch, whatever it is padded with."""
    net, x = small(stride), torch.randn(1, 13, 6)
    alone = net(x, torch.tensor([13]))
    padded = torch.cat([x, torch.full((1, 9, 6), 1e3)], 1)
    beside = torch.cat([torch.randn(2, 22, 6), padded])
    together = net(beside, torch.tensor([22, 5, 13]))
    torch.testing.assert_close(together[2:, : alone.shape[1]], alone)


def test_dropout_differs_from_call_to_call() -> None:
    net = small().train()
    x, lengths = torch.randn(1, 9, 6), torch.tensor([9])
    assert not torch.equal(net(x, lengths), net(x, lengths))
    net.eval()
    assert torch.equal(net(x, lengths), net(x, lengths))


@pytest.mark.parametrize("stride", [0, 1, 3, 6])
def test_other_strides_are_refused(stride: int) -> None:
    with pytest.raises(ModelError, match="stride must be 2, 4, 8"):
        build_model("speech/conv2", {"stride": stride})
