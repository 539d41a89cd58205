"""merge: what is equal is computed once, and what only looks equal is not."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, fx, nn

import kdgraph
from kdgraph.graph import DistillGraph, owner_of
from kdgraph.graph.ops import tap
from kdgraph.passes._effects import effect
from kdgraph.passes._same import same_module
from kdgraph.passes.base import PASSES
from kdgraph.passes.manager import Record

OTHERS = [name for name in PASSES.names() if name not in ("prune", "merge")]


def spec(*models: str, **parts: Any) -> dict[str, Any]:
    taps = {"mid": "body", "logits": "output"}
    return {
        "kdgraph": 1,
        "name": "merge",
        "batch": {"x": {"shape": ["B", 3, 8, 8]}, "view": {"shape": ["B", 3, 8, 8]}},
        "models": {name: {"taps": dict(taps), "input": "x"} for name in models},
        "losses": {
            name: {"use": "soft_target", "student": "student.logits", "teacher": f"{name}.logits"}
            for name in models
            if name != "student"
        },
        **parts,
    }


class Net(nn.Module):
    """Opened at ``body``; what is behind it is code of its own."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        conv = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.head = nn.Linear(6, 4)
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).mean((2, 3))
        out: Tensor = self.head(F.dropout(x, self.noise, training=True) if self.noise else x)
        return out


def batch(size: int = 5) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {n: torch.randn(size, 3, 8, 8, generator=random) for n in ("x", "view")}


def results(step: kdgraph.DistillModule) -> dict[str, Any]:
    torch.manual_seed(2)
    out = step(**batch())
    step.zero_grad()
    out.loss.backward()
    grads = {n: p.grad for n, p in step.named_parameters()}
    return {"loss": out.loss, "losses": out.losses, "outputs": out.outputs, "grads": grads}


def on_and_off(
    written: dict[str, Any], models: dict[str, nn.Module]
) -> tuple[kdgraph.DistillModule, kdgraph.DistillModule]:
    """The step with and without the pass, of the same weights; only what is near it runs too."""
    steps = [
        kdgraph.compile(written, models=models, without=without)
        for without in (OTHERS, [*OTHERS, "merge"])
    ]
    steps[1].load_state_dict(steps[0].state_dict())
    return steps[0], steps[1]


def record(step: kdgraph.DistillModule) -> Record:
    return next(r for r in step.report.records if r.name == "merge")


def computes(step: kdgraph.DistillModule) -> Counter[str]:
    """Nodes that compute, by owner."""
    calls = ("call_module", "call_function", "call_method")
    nodes = [n for n in step.report.graph if n.op in calls and n.target is not tap]
    return Counter(owner_of(n) for n in nodes)


def nets(*names: str, make: Any = Net) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: make() for name in names}


def equal(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("copied", [False, True])
def test_two_roles_of_one_frozen_network_run_once(copied: bool) -> None:
    models = nets("teacher", "student")
    models["second"] = copy.deepcopy(models["teacher"]) if copied else models["teacher"]
    with_it, without_it = on_and_off(spec("teacher", "second", "student"), models)
    did = record(with_it).did
    assert did[0] == "second is the same frozen network as teacher: it runs once"
    assert did[1:] == ("losses.second has the value of losses.teacher, computed once",)
    assert not computes(with_it)["second"]
    equal(results(with_it), results(without_it))


def test_roles_of_one_network_may_tap_it_in_different_places() -> None:
    models = nets("teacher", "student")
    models["second"] = models["teacher"]
    written = spec("teacher", "second", "student")
    written["models"]["second"]["taps"] = {"inner": "body.1", "logits": "output"}
    written["losses"]["second"] = {
        "use": "similarity", "student": "student.mid", "teacher": "second.inner",
    }  # fmt: skip
    with_it, without_it = on_and_off(written, models)
    assert record(with_it).did[0].startswith("second is the same frozen network as teacher")
    equal(results(with_it), results(without_it))


def test_another_input_is_another_value() -> None:
    models = nets("teacher", "student")
    models["second"] = models["teacher"]
    written = spec("teacher", "second", "student")
    written["models"]["second"]["input"] = "view"
    with_it, without_it = on_and_off(written, models)
    assert computes(with_it)["second"] == computes(with_it)["teacher"]
    equal(results(with_it), results(without_it))


def test_a_shared_backbone_runs_once_below_two_heads() -> None:
    models = nets("teacher", "student")
    models["second"] = copy.deepcopy(models["teacher"])
    nn.init.normal_(models["second"].head.weight)  # type: ignore[arg-type, union-attr]
    with_it, without_it = on_and_off(spec("teacher", "second", "student"), models)
    (line,) = record(with_it).did
    assert line == "second: 2 nodes with the values of teacher, computed once"
    assert computes(with_it)["second"] == 1
    equal(results(with_it), results(without_it))


def test_networks_that_draw_random_numbers_each_draw_their_own() -> None:
    models = nets("teacher", "student", make=lambda: Net(0.5))
    models["second"] = models["teacher"]
    with_it, without_it = on_and_off(spec("teacher", "second", "student"), models)
    (reason,) = record(with_it).declined
    assert reason.endswith("both run: each draws random numbers")
    assert "(teacher) and" in reason
    found = results(with_it)
    assert not torch.equal(found["losses"]["teacher"], found["losses"]["second"])
    equal(found, results(without_it))


class Views(nn.Module):
    """Two views of its features in train mode: by dropout, and by a second batch-norm."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3)
        self.view = nn.Dropout(0.5) if kind == "dropout" else nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        out: Tensor = self.head((self.view(x) + 2 * self.view(x)).mean((2, 3)))
        return out


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("dropout", "draws random numbers"), ("batch-norm", "may update its statistics")],
)
def test_two_calls_of_a_trained_module_stay_two(kind: str, reason: str) -> None:
    models: dict[str, nn.Module] = {**nets("teacher"), "student": Views(kind)}
    with_it, without_it = on_and_off(spec("teacher", "student"), models)
    assert [line.endswith(reason) for line in record(with_it).declined] == [True]
    state = copy.deepcopy(with_it.state_dict())
    found = results(with_it)
    counted = [int(b) for n, b in with_it.named_buffers() if n.endswith("num_batches_tracked")]
    assert counted == ([2] if kind == "batch-norm" else [])
    with_it.load_state_dict(state)
    equal(found, results(without_it))


def links(adapter: Any) -> dict[str, Any]:
    taps = {"student": "student.mid", "teacher": "teacher.mid", "adapter": adapter}
    written = spec("teacher", "student", links={"one": taps, "two": dict(taps)})
    written["losses"] = {
        "one": {"use": "hint", "link": "one"},
        "two": {"use": "attention_transfer", "link": "two"},
    }
    return written


def pair(size: int) -> dict[str, nn.Module]:
    """The teacher's map is smaller, or wider, than the student's."""
    models = nets("teacher", "student")
    wide = nn.Conv2d(3, 9, 3) if size == 8 else nn.AvgPool2d(2)
    models["teacher"].body = nn.Sequential(wide, nn.Conv2d(9 if size == 8 else 3, 9, 1))
    models["teacher"].head = nn.Linear(9, 4)
    if size == 4:
        models["student"].body = nn.Conv2d(3, 9, 3, padding=1)
        models["student"].head = nn.Linear(9, 4)
    return models


def test_one_map_pooled_twice_is_pooled_once() -> None:
    with_it, without_it = on_and_off(links("pool"), pair(4))
    assert record(with_it).did == ("adapters.two has the value of adapters.one, computed once",)
    equal(results(with_it), results(without_it))


def test_adapters_that_learn_stay_two() -> None:
    with_it, without_it = on_and_off(links(["conv1x1", "resize"]), pair(8))
    assert record(with_it).did == ()
    assert computes(with_it)["adapters.two"] == 1
    equal(results(with_it), results(without_it))


def test_equal_edges_differ_in_weight_alone() -> None:
    written = spec("teacher", "student", batch={**spec()["batch"], "trust": {"shape": ["B"]}})
    first = written["losses"].pop("teacher")
    written["losses"] = {
        "plain": {**first, "weight": 0.25},
        "again": {**first, "weight": {"linear": [1.0, 0.0], "epochs": [0, 4]}},
        "other": {**first, "tau": 2.0},
        "rows": {**first, "weight": "trust"},
        "rows_again": {**first, "weight": "trust"},
    }
    models = nets("teacher", "student")
    with_it, without_it = on_and_off(written, models)
    assert record(with_it).did == (
        "losses.again has the value of losses.plain, computed once",
        "losses.rows_again has the value of losses.rows, computed once",
    )
    trust = {"trust": torch.tensor([1.0, 0.0, 2.0])}
    found = [step(**batch(3), **trust) for step in (with_it, without_it)]
    equal(found[0].losses, found[1].losses)
    equal(found[0].loss, found[1].loss)
    assert list(found[0].losses) == list(written["losses"])


def test_equal_signals_are_one() -> None:
    same = {"use": "normalise", "of": "teacher.logits", "mode": "standardise"}
    written = spec("teacher", "student", signals={"a": same, "b": dict(same)})
    written["losses"] = {
        name: {"use": "logit_mse", "student": "student.logits", "teacher": name} for name in "ab"
    }
    with_it, without_it = on_and_off(written, nets("teacher", "student"))
    assert record(with_it).did[0] == "signals.b has the value of signals.a, computed once"
    equal(results(with_it), results(without_it))


def test_roles_with_the_same_weights_file_are_built_once(tmp_path: Path) -> None:
    from kdgraph.models.load import build_model

    torch.manual_seed(0)
    save_file(build_model("cifar/resnet8", {}).state_dict(), tmp_path / "w.safetensors")
    taps = {"mid": "layer2", "logits": "output"}
    teacher = {"source": "cifar/resnet8", "weights": str(tmp_path / "w.safetensors")}
    written = {
        "kdgraph": 1,
        "name": "files",
        "batch": {"x": {"shape": ["B", 3, 32, 32]}},
        "models": {
            "teacher": {**teacher, "taps": taps},
            "second": {**teacher, "taps": {"early": "layer1"}},
            "other": {"source": "cifar/resnet8", "taps": taps},
            "student": {"source": "cifar/resnet8", "taps": {**taps, "early": "layer1"}},
        },
        "losses": {
            "a": {"use": "hint", "student": "student.mid", "teacher": "teacher.mid"},
            "b": {"use": "hint", "student": "student.early", "teacher": "second.early"},
            "c": {"use": "hint", "student": "student.mid", "teacher": "other.mid"},
        },
    }
    line = "second is the same frozen network as teacher: it runs once"
    step = kdgraph.compile(written, without=OTHERS)
    planned = next(r for r in kdgraph.plan(written, without=OTHERS).records if r.name == "merge")
    assert record(step).did == planned.did == (line,)
    captured = step.report.captures
    assert captured["second"].root is captured["teacher"].root
    assert captured["other"].root is not captured["teacher"].root


def test_modules_are_equal_by_code_settings_and_values() -> None:
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.BatchNorm1d(4))
    assert same_module(one, copy.deepcopy(one))
    assert not same_module(one, copy.deepcopy(one), look=False)
    for change in ("one[0].weight[0, 0] += 1", "one[1].p = 0.2", "one[2].running_mean[1] = 1"):
        other = copy.deepcopy(one)
        with torch.no_grad():
            exec(change, {"one": other})
        assert not same_module(one, other), change
    assert not same_module(one, copy.deepcopy(one).eval())
    assert not same_module(nn.ReLU(), nn.GELU())


class Asks(nn.Module):
    """Looks at a value while it runs, which no graph can hold; counts how often it runs."""

    runs: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(len(x))
        x = self.body(x)
        out: Tensor = self.head((x * 2 if float(x.sum()) > 0 else x).mean((2, 3)))
        return out


@pytest.mark.parametrize("other", ["logits", "mid"])
def test_a_network_behind_ports_runs_once_for_both_roles(other: str) -> None:
    models = nets("teacher", "student", make=Asks)
    models["student"] = Net()
    models["second"] = models["teacher"]
    written = spec("teacher", "second", "student")
    written["losses"]["second"] = {
        "use": "pkt", "student": "student.mid", "teacher": f"second.{other}",
    }  # fmt: skip
    with_it, without_it = on_and_off(written, models)
    assert with_it.report.captures["second"].rung == "ports"
    assert record(with_it).did == ("second is the same frozen network as teacher: it runs once",)
    Asks.runs.clear()
    found = results(with_it)
    assert Asks.runs == [5]
    equal(found, results(without_it))


def exported(draws: bool, stats: bool) -> tuple[fx.GraphModule, list[fx.Node]]:
    """Operators as an export leaves them, and their nodes."""
    aten = torch.ops.aten
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(4, 3, device="meta")
    nodes = [
        graph.call_function(aten.dropout.default, (x, 0.5, draws)),
        graph.call_function(aten.relu.default, (x,)),
        graph.call_function(
            aten.batch_norm.default,
            (
                x,
                None,
                None,
                x.graph.get_attr("mean"),
                x.graph.get_attr("var"),
                stats,
                0.1,
                1e-5,
                False,
            ),
        ),
    ]
    root = nn.Module()
    root.register_buffer("mean", torch.zeros(3))
    root.register_buffer("var", torch.ones(3))
    graph.output(nodes)
    for node in graph.nodes:
        node.meta |= {"kd_role": "teacher", "kd_owner": "teacher"}
    return fx.GraphModule(root, graph), nodes


@pytest.mark.parametrize("on", [False, True])
def test_operators_of_an_export_are_examined(on: bool) -> None:
    module, nodes = exported(on, on)
    graph = DistillGraph(module.graph, module, kdgraph.load_spec(spec("teacher", "student")))
    found = [effect(node, graph) for node in nodes]
    assert found[1] is None
    if on:
        assert found[0] == "draws random numbers"
        assert found[2] == "updates its statistics"
    else:
        assert found == [None, None, None]
