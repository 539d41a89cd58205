"""The cost of a step against the step itself: torch's counter, the profiler, and by hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import kdgraph
from kdgraph.graph.cost import CannotRun, Cost, cost
from kdgraph.graph.example import example_batch

ROOT = Path(__file__).parents[2]
LABEL = {"shape": ["B"], "dtype": "int64", "classes": 10}
LOGITS = {
    "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
    "soft": {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"},
}


def convolutions() -> dict[str, Any]:
    taps = {"mid": "layer2", "logits": "output"}
    args = {"num_classes": 10}
    return {
        "kdgraph": 1,
        "name": "convolutions",
        "batch": {"image": {"shape": ["B", 3, 48, 48]}, "label": LABEL},
        "models": {
            "teacher": {"source": "torchvision/resnet18", "args": args, "taps": taps},
            "student": {"source": "cifar/resnet8", "args": args, "taps": taps},
        },
        "links": {"mid": {"student": "student.mid", "teacher": "teacher.mid"}},
        "losses": {**LOGITS, "hint": {"use": "hint", "link": "mid"}},
    }


def transformers() -> dict[str, Any]:
    def model(depth: int, width: int) -> dict[str, Any]:
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": width, "depth": depth}
        args = {**sizes, "num_heads": 4, "num_classes": 10}
        taps = {"mid": "blocks.1", "logits": "output"}
        return {"source": "timm/deit_tiny_patch16_224", "args": args, "taps": taps}

    return {
        "kdgraph": 1,
        "name": "transformers",
        "batch": {"image": {"shape": ["B", 3, 32, 32]}, "label": LABEL},
        "models": {"teacher": model(3, 64), "student": model(2, 32)},
        "links": {"mid": {"student": "student.mid", "teacher": "teacher.mid"}},
        "losses": {**LOGITS, "hint": {"use": "hint", "link": "mid"}},
    }


THREE: dict[str, Any] = {
    "digits": ROOT / "specs" / "digits_features.yaml",
    "convolutions": convolutions(),
    "transformers": transformers(),
}


@cache
def compiled(name: str) -> kdgraph.DistillModule:
    return kdgraph.compile(THREE[name])


def measured(step: kdgraph.DistillModule, batch: dict[str, Tensor]) -> tuple[int, int]:
    """FLOPs of a real step by torch's counter; its most bytes by what the allocator reports."""
    with FlopCounterMode(display=False) as counter:
        step(**batch).loss.backward()
    step.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        out = step(**batch)  # held on to, as a training loop does
        out.loss.backward()
    assert profiled.profiler is not None
    events = profiled.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    now = most = 0
    for _, change in sorted(changes, key=lambda event: event[0]):
        now += change
        most = max(most, now)
    parts = [*step.parameters(), *step.buffers(), *batch.values()]
    for frozen in step._frozen:
        parts += [*frozen.parameters(), *frozen.buffers()]
    there = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in parts}
    return counter.get_total_flops(), most + sum(there.values())


@pytest.mark.parametrize("name", THREE)
def test_it_agrees_with_the_step_that_runs(name: str) -> None:
    rows = 24
    step = compiled(name)
    found = cost(step.report.graph, rows)
    batch = example_batch(step.spec, batch=rows)
    flops, peak = measured(step, batch)
    assert found.total.flops == pytest.approx(flops, rel=0.01)
    assert found.peak_bytes == pytest.approx(peak, rel=0.15)


def test_a_plan_without_weights_costs_the_same() -> None:
    with_weights = cost(compiled("convolutions").report.graph, 8)
    without = cost(kdgraph.plan(THREE["convolutions"]).graph, 8)
    assert without.nodes == with_weights.nodes
    assert without.memory == with_weights.memory


SMALL: dict[str, Any] = {
    "kdgraph": 1,
    "name": "small",
    "batch": {"x": {"shape": ["B", 4]}},
    "models": {
        "teacher": {"taps": {"out": "output"}},
        "student": {"taps": {"out": "output"}},
    },
    "losses": {"hint": {"use": "hint", "student": "student.out", "teacher": "teacher.out"}},
}


def of(teacher: nn.Module, student: nn.Module, rows: int = 5, **changes: Any) -> Cost:
    models = {"teacher": teacher, "student": student}
    return cost(kdgraph.compile({**SMALL, **changes}, models=models).report.graph, rows)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def test_by_hand() -> None:
    found = of(nn.Linear(4, 3), mlp())
    teacher, student = found.by_owner()["teacher"], found.by_owner()["student"]
    first, second = 2 * 5 * 4 * 8, 2 * 5 * 8 * 3
    assert teacher.flops_forward == 2 * 5 * 4 * 3
    assert teacher.flops_backward == 0
    assert student.flops_forward == first + second
    # weights of both; the batch needs no gradient
    assert student.flops_backward == first + 2 * second
    assert (teacher.parameters, student.parameters) == (15, 40 + 27)
    # the second layer and tanh read what tanh gave, the loss what came out
    assert student.kept_bytes == 4 * 5 * 8 + 4 * 5 * 3
    memory = found.memory
    assert (memory.trained, memory.frozen, memory.buffers) == (4 * 67, 4 * 15, 0)
    assert memory.batch == 4 * 5 * 4
    assert found.peak_bytes >= 4 * 67 + 4 * 15 + 4 * 5 * 4 + student.kept_bytes


def test_nodes_add_up() -> None:
    found = cost(compiled("convolutions").report.graph, 2)
    assert found.total == sum(found.by_role().values(), type(found.total)())
    assert found.total == sum(found.by_owner().values(), type(found.total)())
    assert {"teacher", "student", "losses.soft", "losses.hint"} <= set(found.by_owner())
    assert found.by_role()["teacher"].flops_backward == 0
    assert found.total.flops == found.total.flops_forward + found.total.flops_backward


def test_twice_the_rows_are_twice_the_work() -> None:
    graph = compiled("convolutions").report.graph
    one, two = cost(graph, 4), cost(graph, 8)
    assert two.by_owner()["student"].flops == 2 * one.by_owner()["student"].flops
    assert two.memory.batch == 2 * one.memory.batch
    assert two.memory.trained == one.memory.trained


def test_what_is_read_twice_is_counted_once() -> None:
    shared = nn.Linear(4, 4)
    found = of(nn.Linear(4, 4), nn.Sequential(shared, nn.Tanh(), shared))
    assert found.by_owner()["student"].parameters == 20
    assert found.memory.trained == 4 * 20


class Branch(torch.autograd.Function):
    """A backward of its own: no graph holds it, so the model is captured by ports."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 2


class Caching(nn.Module):
    """Keeps what it last saw, and runs whole."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = Branch.apply(self.linear(x))
        self.last = value
        return value


def test_models_behind_ports() -> None:
    student = Caching()
    step = kdgraph.compile(SMALL, models={"teacher": nn.Linear(4, 3), "student": student})
    assert step.report.captures["student"].rung == "ports"
    found = cost(step.report.graph, 5)
    assert found.by_owner()["student"].flops_forward == 2 * 5 * 4 * 3
    assert found.by_owner()["student"].flops_backward == 2 * 5 * 4 * 3
    assert found.memory.trained == 4 * 15
    assert student.last is None
    assert all(type(p) is nn.Parameter for p in student.parameters())
    assert step(x=torch.zeros(5, 4)).loss.isfinite()


class Deciding(nn.Module):
    """Decides by a shape, which fx cannot follow: it is exported, with its dropout alive."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.second = nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.first(x).tanh()) if x.dim() == 2 else x
        value: Tensor = self.second(y)
        return value


def test_exported_models() -> None:
    models = {name: Deciding() for name in SMALL["models"]}
    taps = {"taps": {"mid": "first", "out": "output"}}
    step = kdgraph.compile({**SMALL, "models": dict.fromkeys(models, taps)}, models=models)
    assert step.report.captures["student"].rung == "export"
    found = cost(step.report.graph, 64)
    flops, peak = measured(step, {"x": torch.zeros(64, 4)})
    assert found.total.flops == flops
    assert found.peak_bytes == pytest.approx(peak, rel=0.15)


class Asking(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if x.sum() > 0 else 1)


def test_code_that_asks_for_values_has_no_known_cost() -> None:
    with pytest.raises(CannotRun, match="%"):
        of(Asking(4, 3), nn.Linear(4, 3))


def test_the_models_are_left_as_they_were() -> None:
    student = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    before = {n: v.clone() for n, v in student.state_dict().items()}
    graph = kdgraph.compile(SMALL, models={"teacher": nn.Linear(4, 3), "student": student})
    state = torch.get_rng_state()
    assert cost(graph.report.graph).by_owner()["student"].flops > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], v) for n, v in student.state_dict().items())
    assert all(p.grad is None for p in student.parameters())


def test_a_batch_that_the_spec_fixes_stays() -> None:
    fixed = of(nn.Linear(4, 3), mlp(), rows=50, batch={"x": {"shape": [7, 4]}})
    assert fixed.memory.batch == 4 * 7 * 4
