"""A tap is the value at the moment its module returned, whatever is written over it later."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdgraph.capture import capture

RUNGS = ("fx", "export", "ports")


class ActivationAfter(nn.Module):
    """A functional in-place activation right after the tap."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x), inplace=True))


class MethodAfter(ActivationAfter):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mul_(2).clamp_(min=0))


class ResidualAdd(ActivationAfter):
    """``x += y`` after the tap on x, with y a tap too."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.head(y)
        z += z.mean()
        z += y.sum(1, keepdim=True)
        return z


class NameKept(ActivationAfter):
    """Another name of the written value is what is read later."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        kept = y
        y += 1
        return self.head(kept)


class ResultUnused(ActivationAfter):
    """The result of the in-place call is dropped, its effect is not."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.add_(1)
        torch.neg_(y)
        F.hardtanh(y, -3, 3, True)
        self.act(y)
        return self.head(y)


class WritingBlock(nn.Module):
    """A block that opens with a write to its own argument (a pre-activation block)."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(x))


class BlockWritesInput(ActivationAfter):
    def __init__(self) -> None:
        super().__init__()
        self.block = WritingBlock()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.head(self.block(y) + y)  # y is read after the block changed it


class WritesBatch(nn.Module):
    """The very first operation writes to the model's input."""

    def __init__(self) -> None:
        super().__init__()
        self.block = WritingBlock()
        self.head = nn.Conv2d(4, 5, 1)
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x[:, 0] *= 2
        y = self.block(x)
        return self.head(y + self.conv(x))


class ViewWrite(ActivationAfter):
    """A write through a view, of which the base is read later."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y[:, 1:] += 1
        y[:, 0] = 0.5
        y.view(-1)[::2].mul_(3)
        return self.head(y)


class ViewActivation(ActivationAfter):
    """A write to a view, of which only the view is read later."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).flatten(2)
        y.relu_()
        return self.head(y.unflatten(2, x.shape[2:]))


class Chunks(ActivationAfter):
    """Parts of one storage, one of them written to."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        a, b = y[:, :2], y[:, 2:]
        a.add_(b)
        return self.head(torch.cat([a, b], 1))


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(4, 4, 3), nn.SiLU(inplace=True), nn.Dropout(0.3, inplace=True),
        )  # fmt: skip
        self.conv = self.body[0]
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Counts(ActivationAfter):
    """A buffer that the opened forward writes to, with nobody reading the result."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.seen.add_(1)
        self.mean.copy_(0.9 * self.mean + 0.1 * y.detach().mean((0, 2, 3)))
        return self.head(y * self.mean.view(1, -1, 1, 1))


MODELS = [
    ActivationAfter, MethodAfter, ResidualAdd, NameKept, ResultUnused, BlockWritesInput,
    WritesBatch, ViewWrite, ViewActivation, Chunks, Sequence, Counts,
]  # fmt: skip


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("model", MODELS)
def test_values_and_gradients_are_those_of_the_moment(
    model: type[nn.Module], rung: str, assert_same: Any
) -> None:
    torch.manual_seed(0)
    channels = 4 if model is WritesBatch else 3
    inputs = {"x": torch.randn(3, channels, 6, 6)}
    taps = {"conv": "conv", "before": "head:in", "logits": "output"}
    captured = assert_same(model(), inputs, taps, rung)
    shapes = {n.name: n.meta["val"] for n in captured.graph.nodes}
    assert shapes["x"].shape == (3, channels, 6, 6)


@pytest.mark.parametrize("model", MODELS)
def test_dead_code_removal_is_safe(model: type[nn.Module]) -> None:
    """Every node without the mark may go when nobody reads it, and the numbers stay."""
    torch.manual_seed(0)
    inputs = {"x": torch.randn(3, 4 if model is WritesBatch else 3, 6, 6)}
    taps = {"conv": "conv", "logits": "output"}
    module = model().eval()
    captured = capture(module, inputs, taps, rungs=("fx",))
    expected = captured.graph_module()(inputs["x"].clone())
    for node in reversed(list(captured.graph.nodes)):
        fixed = node.op in ("placeholder", "output") or node.meta.get("kd_mutates")
        if not fixed and not node.users:
            captured.graph.erase_node(node)
    torch.manual_seed(1)
    if model is Counts:
        module.mean.zero_()
    got = captured.graph_module()(inputs["x"].clone())
    for name in taps:
        torch.testing.assert_close(got[name], expected[name])


def test_an_activation_becomes_its_out_of_place_form() -> None:
    captured = capture(Sequence(), {"x": torch.randn(2, 3, 8, 8)}, {"norm": "body.1"})
    targets = [node.target for node in captured.graph.nodes]
    assert F.leaky_relu in targets
    assert not any(node.meta.get("kd_mutates") for node in captured.graph.nodes)


def test_the_type_of_an_in_place_sum_is_that_of_its_target() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).bfloat16()
            y += torch.ones(4, 1, 1)
            return y

    captured = capture(Half(), {"x": torch.randn(2, 3, 4, 4)}, {"y": "output"}, rungs=("fx",))
    assert captured.graph_module()(torch.randn(2, 3, 4, 4))["y"].dtype == torch.bfloat16
