"""batch_teachers: small networks that differ in their weights alone run as one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.graph.verify import verify
from kdgraph.passes.base import Context
from kdgraph.passes.batch_teachers import run

TEACHERS = ("teacher", "second", "third")


def spec(**changes: Any) -> dict[str, Any]:
    taps = {"mid": "act", "logits": "output"}
    models = {name: {"taps": dict(taps)} for name in (*TEACHERS, "student")}
    losses = {
        name: {"use": "soft_target", "student": "student.logits", "teacher": f"{name}.logits"}
        for name in TEACHERS
    }
    losses["mid"] = {"use": "hint", "student": "student.mid", "teacher": "third.mid"}
    return {
        "kdgraph": 1,
        "name": "ensemble",
        "batch": {"image": {"shape": ["B", 2, 3, 1]}},
        "models": models,
        "losses": losses,
        **changes,
    }


class Net(nn.Module):
    """Both kinds of layer, a skip, an activation as a module and one as a function."""

    def __init__(self, width: int = 5, norm: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(6, width)
        self.act = nn.GELU()
        self.second = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x.flatten(1)))
        x = x + torch.relu(self.second(x))
        out: Tensor = self.head(self.norm(x))
        return out


def models(make: Callable[[], nn.Module] = Net) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: make() for name in (*TEACHERS, "student")}


def image(batch: int = 4) -> Tensor:
    return torch.randn(batch, 2, 3, 1, generator=torch.Generator().manual_seed(1))


def record(step: kdgraph.DistillModule) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = next(r for r in step.report.records if r.name == "batch_teachers")
    return found.did, found.declined


def results(step: kdgraph.DistillModule, batch: int = 4) -> dict[str, Any]:
    out = step(image=image(batch))
    step.zero_grad()
    out.loss.backward()
    grads = {n: p.grad for n, p in step.named_parameters()}
    return {"loss": out.loss, "losses": out.losses, "outputs": out.outputs, "grads": grads}


@pytest.mark.parametrize("batch", [1, 7])
def test_same_numbers_from_every_network(batch: int) -> None:
    nets = models()
    with_it = kdgraph.compile(spec(), models=nets)
    without_it = kdgraph.compile(spec(), models=nets, without="batch_teachers")
    assert record(with_it) == (
        ("teacher, second, third run at once: 3 linear layers, stacked",),
        (),
    )
    found = results(with_it, batch)
    torch.testing.assert_close(found, results(without_it, batch), rtol=1e-5, atol=1e-6)
    assert found["outputs"]["third.mid"].shape == (batch, 5)


def test_each_layer_runs_once() -> None:
    step = kdgraph.compile(spec(), models=models())
    nodes = [n for n in step.report.graph if n.meta["kd_role"] == "teacher"]
    stacked = [n for n in nodes if str(n.target).startswith("frozen.stacked")]
    assert [n.meta["kd_shape"] for n in stacked] == [(3, 13, 5), (3, 13, 5), (3, 13, 4)]
    assert len([n for n in nodes if n.op == "call_module"]) <= 5  # and GELU, and an identity


def test_a_second_run_changes_nothing() -> None:
    step = kdgraph.compile(spec(), models=models())
    once = next(r for r in step.report.records if r.name == "batch_teachers").after
    again = run(once.copy(), Context(once.spec))
    assert not verify(again)
    assert str(again) == str(once)


def test_it_follows_to_another_type_and_is_no_state() -> None:
    step = kdgraph.compile(spec(), models=models())
    assert not [name for name in step.state_dict() if "stacked" in name]
    assert {n.split(".")[0] for n, _ in step.named_parameters()} == {"models"}
    before = step(image=image()).loss
    after = step.double()(image=image().double()).loss
    assert after.dtype == torch.float64
    torch.testing.assert_close(after.float(), before)


def test_one_graph_under_compile() -> None:
    step = kdgraph.compile(spec(), models=models())
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image=image()).loss, step(image=image()).loss)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Net(norm=True), "only linear layers run faster batched, not LayerNorm"),
        (lambda: Net(600), "a linear layer of 600 x 600 is work enough to run alone"),
        (
            lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.Flatten(), nn.Linear(12, 4)),
            "only linear layers run faster batched, not Conv2d",
        ),
    ],
)
def test_what_does_not_pay_runs_alone(make: Callable[[], nn.Module], reason: str) -> None:
    written = spec()
    del written["losses"]["mid"]
    for model in written["models"].values():
        del model["taps"]["mid"]
    step = kdgraph.compile(written, models=models(make), without="freeze")
    did, declined = record(step)
    assert not did
    assert declined == (f"teacher, second, third have the same architecture, but {reason}",)


def test_other_sizes_and_other_inputs_are_no_equals() -> None:
    nets = models()
    nets["second"] = Net(7)
    step = kdgraph.compile(spec(), models=nets)
    assert record(step)[0] == ("teacher, third run at once: 3 linear layers, stacked",)
    written = spec(batch={"image": {"shape": ["B", 2, 3, 1]}, "view": {"shape": ["B", 2, 3, 1]}})
    written["models"]["third"]["input"] = "view"
    step = kdgraph.compile(written, models=nets)
    assert record(step) == ((), ())


def test_weights_of_a_called_twice_layer_are_its_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.two = nn.Linear(6, 6)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.two(self.act(self.one(x.flatten(1))))
            return out

    nets = models(Twice)
    apart = copy.deepcopy(nets["second"])
    apart.two = nn.Linear(6, 6)
    nets["second"] = apart
    found = [
        results(kdgraph.compile(spec(), models=nets, without=w)) for w in ([], ["batch_teachers"])
    ]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
