"""A model that runs as it is stops once its last needed tap has been read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdgraph.capture import capture
from kdgraph.capture.ports import PortModel
from kdgraph.capture.record import Declined
from kdgraph.capture.stopping import shorten

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
TAPS = {"first": "layers.0", "norm": "layers.1.norm", "layer": "layers.1", "y": "output"}


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x)).relu_()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.call(layer, x)
        return self.end(x)

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x)

    def end(self, x: Tensor) -> Tensor:
        return x


def port_of(net: nn.Module, names: list[str], x: Tensor = X) -> PortModel:
    captured = capture(net, {"x": x}, TAPS, rungs=("ports",))
    (port,) = captured.modules.values()
    assert isinstance(port, PortModel)
    return shorten(port, names, {"x": x})


def whole(net: nn.Module, names: list[str]) -> tuple[Tensor, ...]:
    run = capture(net, {"x": X}, TAPS, rungs=("ports",)).graph_module()
    values = run(X)
    return tuple(values[name] for name in names)


@pytest.mark.parametrize("names", [["first"], ["norm"], ["first", "norm"], ["norm", "layer"]])
def test_same_values_and_gradients(names: list[str]) -> None:
    torch.manual_seed(0)
    net = Net()
    other = copy.deepcopy(net)
    port = port_of(net, names)
    assert port.stops
    assert list(port.taps) == names
    for _ in range(2):  # nothing is left behind by the first
        ours, theirs = port(X), whole(other, names)
        torch.testing.assert_close(ours, theirs)
        sum((v.sin().sum() for v in ours), X.new_zeros(())).backward()
        sum((v.sin().sum() for v in theirs), X.new_zeros(())).backward()
    for (name, mine), full in zip(net.named_parameters(), other.parameters(), strict=True):
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, full.grad, msg=name)
        assert (mine.grad is None) == (full.grad is None), name
    assert not port._values


def test_modules_past_the_stop_are_named() -> None:
    net = Net()
    assert port_of(net, ["norm"]).unused >= {net.layers[2]}
    assert net.layers[1] not in port_of(net, ["norm"]).unused
    assert not port_of(net, ["y"]).unused
    assert not port_of(net, ["y"]).stops


def test_a_value_that_nothing_changes_any_more_is_not_copied() -> None:
    net = Net()
    kept: list[Tensor] = []
    whole_port = capture(net, {"x": X}, TAPS, rungs=("ports",)).modules["kd_ports"]
    assert "norm" in whole_port.copied  # relu_ changes it
    port = port_of(net, ["norm"])
    net.layers[1].norm.register_forward_hook(lambda module, args, result: kept.append(result))
    assert port(X)[0] is kept[0]


class Swallowing(Net):
    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        try:
            return layer(x)
        except Exception:
            return x


class Switching(Net):
    """Sets the gradient mode by hand."""

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        x = layer(x)
        torch.set_grad_enabled(before)
        return x


class Checkpointed(Net):
    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(layer, x, use_reentrant=False)


@pytest.mark.parametrize("kind", [Swallowing, Switching, Checkpointed])
def test_code_around_the_tap(kind: type[Net]) -> None:
    torch.manual_seed(0)
    net = kind()
    other = copy.deepcopy(net)
    port = port_of(net, ["first", "norm"])
    assert port.stops
    ours, theirs = port(X), whole(other, ["first", "norm"])
    assert torch.is_grad_enabled()
    torch.testing.assert_close(ours, theirs)
    if ours[1].requires_grad:
        ours[1].sin().sum().backward(), theirs[1].sin().sum().backward()
        for mine, full in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, full.grad)


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def end(self, x: Tensor) -> Tensor:
        self.steps += 1
        return x


class Remembering(Net):
    """What comes last in one run is read first in the next."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - self.mean)

    def end(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.detach().mean(0), 0.1)
        return x


class Patching(Net):
    def forward(self, x: Tensor) -> Tensor:
        plain = self.layers[0].forward
        self.layers[0].forward = lambda x: plain(x)
        result = super().forward(x)
        del self.layers[0].forward
        return result


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Counting, "sets steps"), (Remembering, "writes to mean"), (Patching, "layers.0.forward")],
)
def test_code_that_has_to_run_to_the_end(kind: type[Net], reason: str) -> None:
    with pytest.raises(Declined, match=reason):
        port_of(kind(), ["norm"])


def test_a_hook_that_waits_for_the_end() -> None:
    net = Net()
    net.register_forward_hook(lambda module, args, result: None)
    with pytest.raises(Declined, match="hook"):
        port_of(net, ["norm"])


class Asking(Net):
    """Cannot run on fake tensors, and may leave a layer out."""

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        skip = layer is self.layers[0] and bool(x.detach().abs().sum() > 1e9)
        return x if skip else layer(x)


def test_code_that_asks_for_values() -> None:
    net = Asking()
    port = port_of(net, ["norm"])
    assert net.layers[2] in port.unused
    assert not any(m in port.unused for m in net.layers[0].modules())
    torch.testing.assert_close(port(X), whole(net, ["norm"]))


def test_a_branch_that_was_not_taken_counts_as_needed() -> None:
    net = Net()
    net.other = nn.Linear(8, 8)
    assert net.other not in port_of(net, ["norm"]).unused


def test_it_moves_what_runs() -> None:
    net = Net()
    port_of(net, ["first"]).double()
    assert {p.dtype for p in net.layers[0].parameters()} == {torch.float64}
    assert {p.dtype for p in net.layers[2].parameters()} == {torch.float32}


@pytest.mark.parametrize("make", [Net, Swallowing])
def test_it_compiles_to_one_graph(make: Callable[[], Net]) -> None:
    torch.manual_seed(0)
    net = make()
    other = copy.deepcopy(net)
    port: Any = torch.compile(port_of(net, ["norm"]), fullgraph=True, backend="aot_eager")
    for _ in range(2):
        ours, theirs = port(X), whole(other, ["norm"])
        torch.testing.assert_close(ours, theirs)
        ours[0].sum().backward(), theirs[0].sum().backward()
    torch.testing.assert_close(net.layers[0].proj.weight.grad, other.layers[0].proj.weight.grad)
