from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdgraph.capture import Captured, capture


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.proj(x)
        return self.act(self.norm(y)) * 2, y


class Net(nn.Module):
    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer() for _ in range(3)])
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for layer in self.layers:
            x, y = checkpoint(layer, x, use_reentrant=False) if self.checkpointed else layer(x)
            x += y
        return {"x": x}


X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
TAPS = {"norm": "layers.1.norm", "layer": "layers.1[0]", "in": "layers.2:in", "y": "output.x"}


def by_ports(net: nn.Module) -> tuple[Captured, Any]:
    captured = capture(net, {"x": X}, TAPS, rungs=("ports",))
    return captured, captured.graph_module()


def test_it_owns_nothing_and_hooks_nothing() -> None:
    net = Net()
    captured, _ = by_ports(net)
    (ports,) = captured.modules.values()
    assert not list(ports.parameters())
    assert not list(ports.buffers())
    assert len(list(ports.modules())) == 1
    assert not ports.state_dict()


def test_attributes_and_types_are_those_of_the_originals() -> None:
    net = Net()
    captured, _ = by_ports(net)
    (ports,) = captured.modules.values()
    shadow = ports._root
    assert isinstance(shadow, Net)
    assert isinstance(shadow.layers[1].norm, nn.BatchNorm1d)
    assert shadow.layers[1].norm.weight is net.layers[1].norm.weight
    assert shadow.layers[0] is net.layers[0]
    assert shadow.layers[1].proj is net.layers[1].proj


def test_it_follows_mode_type_and_weights() -> None:
    net = Net()
    _, run = by_ports(net)
    net.eval()
    assert torch.equal(run(X)["y"], net(X.clone())["x"])
    net.double()
    assert run(X.double())["y"].dtype == torch.float64
    net.layers[1].proj.weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.float64))
    assert torch.equal(run(X.double())["y"], net(X.double())["x"])
    net.load_state_dict(Net().double().state_dict())
    assert torch.equal(run(X.double())["norm"], copy.deepcopy(run)(X.double())["norm"])
    assert torch.equal(run(X.double())["y"], net(X.double())["x"])


def test_hooks_of_the_user_run_once() -> None:
    net = Net()
    counts = [0]
    for module in (net, net.layers[1], net.layers[1].norm, net.layers[0]):
        module.register_forward_hook(lambda *_: counts.__setitem__(0, counts[0] + 1))
    _, run = by_ports(net)
    counts[0] = 0
    run(X)
    assert counts[0] == 4


def test_checkpointing_runs_parts_again_in_the_backward() -> None:
    torch.manual_seed(0)
    plain = Net()
    net = Net(checkpointed=True)
    net.load_state_dict(plain.state_dict())
    _, run = by_ports(net)
    _, reference = by_ports(plain)
    for each in (run, reference):
        found = each(X)
        sum(v.square().sum() for v in found.values()).backward()
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_nothing_is_held_after_a_run() -> None:
    captured, run = by_ports(Net())
    (ports,) = captured.modules.values()
    run(X)
    assert not ports._values


def test_it_compiles_to_one_graph_and_trains() -> None:
    torch.manual_seed(0)
    net = Net()
    other = copy.deepcopy(net)
    _, run = by_ports(net)
    _, plain = by_ports(other)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        ours, theirs = compiled(X), plain(X)
        for name in TAPS:
            torch.testing.assert_close(ours[name], theirs[name])
        ours["norm"].square().sum().backward()
        theirs["norm"].square().sum().backward()
    torch.testing.assert_close(net.layers[0].proj.weight.grad, other.layers[0].proj.weight.grad)
    net.eval()
    torch.testing.assert_close(compiled(X)["y"], net(X.clone())["x"])
