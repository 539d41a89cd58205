from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import GraphModule

from kdgraph.capture import capture
from kdgraph.errors import CaptureError

RUNGS = ("fx", "export", "ports")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.mix = nn.Conv2d(4, 4, 1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.mix(F.relu(self.norm(self.conv(x)), inplace=True)))
        y += x
        return y


class Net(nn.Module):
    """A small network with batch norm, dropout, residual sums and an optional mask."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor, mask: Tensor | None = None, flip: bool = False) -> Tensor:
        y = self.blocks(self.stem(x)) * self.scale
        if mask is not None:
            y = y * mask
        if flip:
            y = y.flip(-1)
        return self.head(y.mean((2, 3)))


INPUTS = {"x": torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
TAPS = {"norm": "blocks.1.norm", "block": "blocks.1", "logits": "output"}


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("rung", RUNGS)
def test_values_gradients_and_statistics(rung: str, mode: bool, assert_same: Any) -> None:
    torch.manual_seed(0)
    assert_same(Net().train(mode), INPUTS, TAPS, rung)


@pytest.mark.parametrize("rung", RUNGS)
def test_arguments_that_are_not_given_have_their_default(rung: str, assert_same: Any) -> None:
    mask = torch.rand(4, 1, 6, 6)
    assert_same(Net(), INPUTS, TAPS, rung)
    assert_same(Net(), INPUTS | {"mask": mask}, TAPS, rung)


@pytest.mark.parametrize("rung", RUNGS)
def test_the_batch_size_is_free(rung: str) -> None:
    net = Net().eval()
    run = capture(net, {"x": INPUTS["x"][:1]}, TAPS, rungs=(rung,)).graph_module()
    for batch in (1, 2, 7):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(run(x=x)["logits"], net(x))


@pytest.mark.parametrize("rung", RUNGS)
def test_the_graph_trains_the_module_that_was_given(rung: str) -> None:
    net = Net()
    run = capture(net, INPUTS, TAPS, rungs=(rung,)).graph_module()
    before = net.blocks[1].conv.weight.detach().clone()
    count = net.blocks[0].norm.num_batches_tracked.clone()
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    run(**INPUTS)["logits"].square().sum().backward()
    optimiser.step()
    assert not torch.equal(net.blocks[1].conv.weight, before)
    assert net.blocks[0].norm.num_batches_tracked == count + 1


@pytest.mark.parametrize("rung", RUNGS)
def test_the_module_is_left_as_it_was(rung: str) -> None:
    net = Net()
    net.blocks[1].eval()
    modes = [m.training for m in net.modules()]
    state = {k: v.clone() for k, v in net.state_dict().items()}
    versions = [t._version for t in (*net.parameters(), *net.buffers())]
    attributes = [set(vars(m)) for m in net.modules()]
    kinds = [type(m) for m in net.modules()]
    torch.manual_seed(5)
    random.seed(5)
    seeds = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    capture(net, INPUTS, TAPS, rungs=(rung,))
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert [t._version for t in (*net.parameters(), *net.buffers())] == versions
    assert [set(vars(m)) for m in net.modules()] == attributes
    assert [type(m) for m in net.modules()] == kinds
    assert torch.equal(torch.get_rng_state(), seeds[0])
    assert random.getstate() == seeds[1]
    assert np.random.get_state()[1].tolist() == seeds[2]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_only_what_holds_a_tap_is_opened() -> None:
    captured = capture(Net(), INPUTS, {"norm": "blocks.1.norm"})
    whole = {node.target for node in captured.graph.nodes if node.op == "call_module"}
    assert {"stem", "blocks.0", "blocks.1.norm", "blocks.2"} <= whole
    paths = {node.meta["kd_path"] for node in captured.graph.nodes}
    assert {"stem", "blocks.1", "blocks.1.norm"} <= paths


@pytest.mark.parametrize("rung", RUNGS)
def test_every_node_has_a_fake_value_and_a_path(rung: str) -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    inputs = {"x": mode.from_tensor(INPUTS["x"])}
    captured = capture(Net(), inputs, TAPS, rungs=(rung,))
    for node in captured.graph.nodes:
        if node.op != "output":
            assert "kd_path" in node.meta, node
        value = node.meta["val"]
        if isinstance(value, Tensor):
            assert isinstance(value, FakeTensor)
            assert value.fake_mode is mode
    assert captured.graph.output_node().args[0]["norm"].meta["val"].shape == (4, 4, 6, 6)


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.conv(x), 0.5, self.training)


def test_a_mode_that_is_read_by_opened_code_is_told() -> None:
    taps = {"conv": "conv", "y": "output"}
    assert capture(FunctionalDropout(), INPUTS, taps).mode_dependent
    assert not capture(Net(), INPUTS, taps | {"conv": "stem"}).mode_dependent
    ports = capture(FunctionalDropout(), INPUTS, taps, rungs=("ports",))
    assert not ports.mode_dependent


class Draws(FunctionalDropout):
    """Opened code that asks Python for a number: it must not become a constant."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y if random.random() < 0.5 else -y


class DrawsNumpy(FunctionalDropout):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * float(np.random.rand())


class DrawsTorch(FunctionalDropout):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * torch.rand(4, 1, 1)


@pytest.mark.parametrize("model", [Draws, DrawsNumpy, DrawsTorch])
def test_a_random_number_is_never_frozen(model: type[nn.Module], assert_same: Any) -> None:
    net = model()
    captured = capture(net, INPUTS, {"y": "output"})
    assert captured.rung == ("export" if model is DrawsTorch else "ports")
    assert "random" in captured.declined[0][1]
    run = captured.graph_module()
    for seed in range(6):
        values = []
        for call in (lambda: net(INPUTS["x"]), lambda: run(INPUTS["x"])["y"]):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            values.append(call())
        assert torch.equal(*values)


class Asks(FunctionalDropout):
    """Control flow on a value: only the model itself can run it."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * 2 if y.sum() > 0 else y


class TakesAnotherBranch(FunctionalDropout):
    """A proxy is not a tensor, so that tracing would silently leave out the doubling."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * 2 if isinstance(y, Tensor) else y


class Sizes(FunctionalDropout):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if y.shape[-1] > 4:
            y = y[..., 1:]
        return y.flatten(1)


@pytest.mark.parametrize(
    ("model", "rung"), [(Asks, "ports"), (TakesAnotherBranch, "export"), (Sizes, "export")]
)
def test_the_ladder_goes_on(model: type[nn.Module], rung: str, assert_same: Any) -> None:
    taps = {"conv": "conv", "y": "output"}
    captured = capture(model(), INPUTS, taps)
    assert captured.rung == rung
    assert all(reason and "\n" not in reason for _, reason in captured.declined)
    assert_same(model(), INPUTS, taps, rung)


class FixedBatch(FunctionalDropout):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * 2 if x.shape[0] == 4 else y


def test_a_fixed_batch_size_is_not_exported() -> None:
    captured = capture(FixedBatch(), INPUTS, {"y": "output"})
    assert [rung for rung, _ in captured.declined] == ["fx", "export"]


def test_no_rung_takes_it() -> None:
    with pytest.raises(CaptureError) as error:
        capture(Asks(), INPUTS, {"y": "output"}, rungs=("fx",))
    assert error.value.diagnostics[0].code == "KD404"
    assert "control flow" in str(error.value)


class Regions(FunctionalDropout):
    """Code under no_grad and autocast, a constant, and an attribute that is a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = torch.arange(4.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        with torch.no_grad():
            z = y.mean(1, keepdim=True)
        with torch.autocast("cpu", enabled=False):
            y = y.float() @ torch.eye(8)
        return y * z + self.plain.view(4, 1, 1) + torch.arange(4, device=x.device).view(4, 1, 1)


class OwnBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


class Reversed(FunctionalDropout):
    """A gradient reversal: a graph of its forward alone would have another gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return OwnBackward.apply(self.conv(x))


def test_a_backward_of_its_own_is_kept(assert_same: Any) -> None:
    captured = capture(Reversed(), INPUTS, {"y": "output"})
    assert captured.rung == "ports"
    assert all("backward of its own" in reason for _, reason in captured.declined)
    assert_same(Reversed(), INPUTS, {"y": "output"}, "ports")


class LeafReversed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.leaf = Reversed()
        self.head = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.leaf(x))


def test_a_leaf_may_do_anything(assert_same: Any) -> None:
    assert_same(LeafReversed(), INPUTS, {"leaf": "leaf", "y": "output"}, "fx")


class InPlaceDropout(nn.Module):
    """Writes over its argument in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.drop = nn.Dropout(0.5, inplace=True)
        self.head = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.conv(x)))


@pytest.mark.parametrize("rung", ["fx", "ports"])
def test_a_capture_in_eval_mode_holds_in_train_mode(rung: str) -> None:
    net = InPlaceDropout().eval()
    captured = capture(net, INPUTS, {"conv": "conv", "y": "output"}, rungs=(rung,))
    assert not captured.mode_dependent
    net.train()
    found = captured.graph_module()(INPUTS["x"])["conv"]
    torch.testing.assert_close(found, net.conv(INPUTS["x"]))


@pytest.mark.parametrize(
    "region", [torch.no_grad, torch.enable_grad, partial(torch.autocast, "cpu")]
)
def test_fx_declines_what_it_would_lose(region: Any) -> None:
    class Region(FunctionalDropout):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            with region():
                z = y.mean(1, keepdim=True)
            return y + z

    captured = capture(Region(), INPUTS, {"y": "output"})
    assert captured.rung == ("fx" if region is torch.enable_grad else "export")


@pytest.mark.parametrize("rung", RUNGS)
def test_it_compiles_to_one_graph(rung: str) -> None:
    net = Regions() if rung == "export" else Net()
    run = capture(net, INPUTS, {"y": "output"}, rungs=(rung,)).graph_module()
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    found = compiled(INPUTS["x"])["y"]
    torch.manual_seed(0)
    torch.testing.assert_close(found, run(INPUTS["x"])["y"])


@pytest.mark.parametrize("rung", ["export", "ports"])
def test_regions_and_constants(rung: str, assert_same: Any) -> None:
    assert_same(Regions(), INPUTS, {"conv": "conv", "y": "output"}, rung)


def test_an_exported_graph_follows_the_device_of_its_input() -> None:
    captured = capture(Regions(), INPUTS, {"y": "output"}, rungs=("export",))
    graphs = [m.graph for m in captured.graph_module().modules() if isinstance(m, GraphModule)]
    assert len(graphs) > 1
    for node in (n for graph in graphs for n in graph.nodes):
        fixed = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, torch.device)]
        assert not fixed, node
        assert "assert" not in node.name


def test_an_exported_graph_runs_under_autocast() -> None:
    net = Regions()
    run = capture(net, INPUTS, {"y": "output"}, rungs=("export",)).graph_module()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(run(INPUTS["x"])["y"], net(INPUTS["x"]))


class Caches(FunctionalDropout):
    """Writes to itself while it runs, as attention does with its bias tables."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[str, Tensor] = {}
        self.inner = nn.ModuleList([self.conv])
        self.listed = [self.conv]  # held outside of the registered modules

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.table:
            self.table["bias"] = self.conv.weight.sum() * 2
        return self.listed[0](x) + self.table["bias"]


@pytest.mark.parametrize("rung", RUNGS)
def test_caches_of_the_model_stay_its_own(rung: str) -> None:
    net = Caches()
    try:
        capture(net, INPUTS, {"conv": "conv", "y": "output"}, rungs=(rung,))
    finally:
        assert net.table == {}


def test_tied_modules_and_parameters(assert_same: Any) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
            self.two = nn.Sequential(self.one[0], nn.Tanh())
            self.head = nn.Linear(8, 8)
            self.head.weight = self.one[0].weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.two(self.one(x)))

    for rung in RUNGS:
        assert_same(Tied(), {"x": torch.randn(2, 8)}, {"a": "two.0@2", "y": "output"}, rung)
