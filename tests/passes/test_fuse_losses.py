"""fuse_losses: edges over the same logits share their softmaxes and write one gradient."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import kdgraph
from kdgraph.losses._fused import FusedLosses
from kdgraph.passes.base import PASSES, Context
from kdgraph.passes.manager import Record

SIDES = {"student": "student.logits", "teacher": "teacher.logits"}
SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "four",
    "batch": {
        "x": {"shape": ["B", 6]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 5},
        "known": {"shape": ["B"]},
        "trust": {"shape": ["B"]},
    },
    "models": {
        "teacher": {"taps": {"logits": "output"}},
        "student": {"taps": {"logits": "output"}},
    },
    "signals": {
        "zs": {"use": "normalise", "of": "student.logits", "mode": "standardise"},
        "zt": {"use": "normalise", "of": "teacher.logits", "mode": "standardise"},
    },
    "losses": {
        "task": {
            "use": "cross_entropy",
            "student": "student.logits",
            "target": "label",
            "ignore_index": 1,
        },
        "soft": {"use": "soft_target", **SIDES, "tau": {"linear": [4.0, 1.0], "epochs": [0, 4]}},
        "dist": {"use": "dist", **SIDES, "weight": {"linear": [1.0, 0.0], "epochs": [0, 4]}},
        "std": {"use": "soft_target", "student": "zs", "teacher": "zt", "tau": 2},
        "back": {"use": "reverse_kl", **SIDES, "mask": "known", "weight": "trust"},
        "raw": {"use": "logit_mse", **SIDES, "weight": 0.1},
    },
}


def spec(losses: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return SPEC if losses is None else {**SPEC, "losses": losses}


def batch(rows: int = 7) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(rows, 6, generator=random),
        "label": torch.tensor([0, 1, 2, 3, 4, 1, 0])[:rows],
        "known": torch.tensor([1.0, 0.0, 1.0, 0.5, 1.0, 1.0, 0.0])[:rows],
        "trust": torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, 3.0, 1.0])[:rows],
    }


def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"teacher": nn.Linear(6, 5), "student": nn.Linear(6, 5)}


def compiled(
    losses: Mapping[str, Any] | None = None, without: Collection[str] = ()
) -> kdgraph.DistillModule:
    return kdgraph.compile(spec(losses), models=nets(), without=without)


def results(step: kdgraph.DistillModule, given: Mapping[str, Tensor]) -> dict[str, Any]:
    out = step(**given)
    grads = torch.autograd.grad(out.loss, list(step.parameters()))
    return {"loss": out.loss, "losses": out.losses, "grads": grads}


@cache
def six() -> kdgraph.DistillModule:
    return compiled()


def record(step: kdgraph.DistillModule) -> Record:
    (found,) = [r for r in step.report.records if r.name == "fuse_losses"]
    return found


def fused_modules(step: kdgraph.DistillModule) -> list[FusedLosses]:
    graph = step.report.graph
    calls = graph.graph.find_nodes(op="call_module")
    modules = [graph.root.get_submodule(str(n.target)) for n in calls]
    return [m for m in modules if isinstance(m, FusedLosses)]


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped there
    """How often each operation runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped there
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_all_edges_become_one_node_and_are_still_told_apart() -> None:
    (module,) = fused_modules(six())
    assert module.names == ("task", "soft", "dist", "std", "back", "raw")
    outputs = six().report.graph.outputs["losses"]
    assert {name: node.meta["kd_owner"] for name, node in outputs.items()} == {
        name: f"losses.{name}" for name in module.names
    }
    assert "one node over student.logits" in record(six()).did[0]


def test_same_numbers_with_and_without() -> None:
    for epoch in (0, 1.5, 4):
        steps = [compiled(), compiled(without=["fuse_losses"])]
        for step in steps:
            step.set_progress(epoch=epoch)
        first, second = (results(step, batch()) for step in steps)
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)


def test_one_softmax_per_tensor_and_temperature() -> None:
    fused = six()  # which is compiled here, where this test is the first
    with Counted() as count:
        fused(**batch()).loss.backward()
    # student and teacher: at the scheduled temperature, at 1, and standardised at 2
    assert count.calls["_log_softmax"] + count.calls["_softmax"] == 6
    assert count.calls["_log_softmax_backward_data"] == 0
    other = compiled(without=["fuse_losses", "share_parts"])
    with Counted() as apart:
        other(**batch()).loss.backward()
    assert apart.calls["_log_softmax"] + apart.calls["_softmax"] == 9
    assert sum(count.calls.values()) < sum(apart.calls.values())


@pytest.mark.parametrize("masked", [-float("inf"), float("nan")])
def test_impossible_classes_and_nan_get_the_losses_themselves(masked: float) -> None:
    steps = [compiled(), compiled(without=["fuse_losses"])]
    found = []
    for step in steps:
        step.check_values = False
        with torch.no_grad():
            step.student.get_parameter("bias")[3] = masked
        found.append(results(step, batch()))
    torch.testing.assert_close(*found, equal_nan=True, rtol=1e-5, atol=1e-7)


def test_schedules_move_without_a_recompilation() -> None:
    torch._dynamo.reset()
    step = compiled()
    fast = torch.compile(step, fullgraph=True, backend="aot_eager")
    for epoch in range(4):
        step.set_progress(epoch=epoch)
        with torch.compiler.set_stance("default" if epoch == 0 else "fail_on_recompile"):
            out = fast(**batch())
        expected = step(**batch())
        torch.testing.assert_close(out.losses, expected.losses, rtol=1e-5, atol=1e-7)
    grads = torch.autograd.grad(out.loss, list(step.parameters()))
    expected_grads = torch.autograd.grad(expected.loss, list(step.parameters()))
    torch.testing.assert_close(grads, expected_grads, rtol=1e-5, atol=1e-7)


def test_edges_can_be_differentiated_one_by_one() -> None:
    plain, step = compiled(without=["fuse_losses"]), compiled()
    for name in SPEC["losses"]:
        found = [
            torch.autograd.grad(s(**batch()).losses[name], list(s.parameters()))
            for s in (step, plain)
        ]
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


def test_a_gradient_has_a_gradient() -> None:
    found = []
    for step in (compiled(), compiled(without=["fuse_losses"])):
        parameters = list(step.parameters())
        grads = torch.autograd.grad(step(**batch()).loss, parameters, create_graph=True)
        norm = sum(g.square().sum() for g in grads)
        assert isinstance(norm, Tensor)
        found.append(torch.autograd.grad(norm, parameters))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_state_is_the_same_with_and_without() -> None:
    other = compiled(without=["fuse_losses"])
    assert other.state_dict().keys() == six().state_dict().keys()
    copied = copy.deepcopy(six())
    torch.testing.assert_close(copied(**batch()).loss, six()(**batch()).loss)


def test_what_stays_apart_is_said() -> None:
    losses = {
        "soft": {"use": "soft_target", **SIDES},
        "dist": {"use": "dist", **SIDES},
        "same": {"use": "similarity", **SIDES},
    }
    step = compiled(losses)
    assert record(step).did == ("soft, dist: one node over student.logits",)
    (declined,) = record(step).declined
    assert declined == "same: stays a node of its own, similarity has no closed form"


def test_an_edge_alone_stays_as_it_is() -> None:
    losses = {
        "soft": {"use": "soft_target", **SIDES},
        "same": {"use": "similarity", **SIDES},
    }
    step = compiled(losses)
    assert record(step).did == record(step).declined == ()
    assert fused_modules(step) == []


def test_a_second_run_changes_nothing() -> None:
    once = record(six()).after
    context = Context(once.spec)
    again = PASSES.get("fuse_losses").run(once.copy(), context)
    assert str(again) == str(once)
    assert context.did == context.declined == []
