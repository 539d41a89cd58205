"""torch.compile takes the whole step as one graph, and takes it once.

Whatever the passes make of a spec, Dynamo must follow it without a break, and neither schedules
that move nor a change of mode and back may make it start again.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torchvision.ops import StochasticDepth

import kdgraph
from kdgraph.passes.base import PASSES
from tests.test_equality import PAIRS, spec_of
from tests.test_specs import SPECS, random_batch

MOVING = {"linear": [1.0, 0.5], "epochs": [0, 3]}
EVERY_LOSS_MOVES = "{linear: [1.0, 0.5], epochs: [0, 3]}"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.compiler.reset()


def compiled(step: kdgraph.DistillModule, backend: str) -> tuple[Any, CompileCounterWithBackend]:
    counter = CompileCounterWithBackend(backend)
    return torch.compile(step, fullgraph=True, backend=counter), counter


def without_chance(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0


def result(step: Any, state: dict[str, Any], batch: dict[str, Tensor]) -> dict[str, Any]:
    """Loss, edges and gradients from a given state."""
    module = getattr(step, "_orig_mod", step)
    module.load_state_dict(copy.deepcopy(state))
    module.zero_grad()
    out = step(**batch)
    out.loss.backward()
    grads = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return {"loss": out.loss, "losses": out.losses, "grads": grads}


def close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    largest = max(float(g.abs().max()) for g in theirs["grads"].values())
    for part in ("loss", "losses"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours["grads"], theirs["grads"], rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("path", SPECS, ids=[p.stem for p in SPECS])
@torch._dynamo.config.patch(allow_rnn=True)  # else LSTMs are kept out
def test_a_shipped_spec_is_one_graph(path: Path) -> None:
    spec = kdgraph.load_spec(path)
    moving = [f"losses.{name}.weight={EVERY_LOSS_MOVES}" for name in spec.losses]
    step = kdgraph.compile(path, set=moving)
    for captured in step.report.captures.values():
        without_chance(captured.root)  # a compiler draws other numbers
    batch, state = random_batch(spec), copy.deepcopy(step.state_dict())
    plain = result(step, state, batch)
    run, counter = compiled(step, "aot_eager")
    close(result(run, state, batch), plain)
    assert counter.frame_count == 1
    for epoch in range(3):
        step.set_progress(epoch=epoch)
        out = run(**batch)
        expected = step(**batch).loss
        if not spec.stages:  # which have weights of their own
            expected = sum(value * (1.0 - epoch / 6) for value in out.losses.values())
        torch.testing.assert_close(out.loss, expected, rtol=1e-5, atol=1e-6)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["cnn", "vit", "bert"])
def test_a_pair_of_networks_is_one_graph(name: str) -> None:
    pair = PAIRS[name]
    teacher, student = pair.make()
    without_chance(student)
    step = kdgraph.compile(spec_of(pair), models={"teacher": teacher, "student": student})
    batch, state = pair.values(), copy.deepcopy(step.state_dict())
    plain = result(step, state, batch)
    run, counter = compiled(step, "aot_eager")
    close(result(run, state, batch), plain)
    assert counter.frame_count == 1


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()
        )
        self.head, self.extra = nn.Linear(width, 7), nn.Linear(7, 7)
        with torch.no_grad():  # logits that differ, as those of a trained network do
            self.head.weight.mul_(20)
            self.extra.weight.mul_(5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.body(self.stem(image))
        return self.extra(self.head(x.mean((2, 3))))


SMALL: dict[str, Any] = {
    "kdgraph": 1,
    "name": "small",
    "batch": {
        "image": {"shape": ["B", 3, 8, 8]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 7},
    },
    "models": {
        "teacher": {"taps": {"mid": "body", "logits": "head"}},
        "second": {"taps": {"mid": "body", "logits": "output"}},
        "student": {"taps": {"mid": "body", "logits": "output"}},
    },
    "links": {"mid": {"student": "student.mid", "teacher": "teacher.mid", "adapter": "auto"}},
    "signals": {
        "both": {"use": "ensemble", "of": ["teacher.logits", "second.logits"]},
    },
    "losses": {
        "task": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "soft": {
            "use": "soft_target",
            "student": "student.logits",
            "teacher": "teacher.logits",
            "weight": MOVING,
            "tau": {"linear": [4.0, 2.0], "epochs": [0, 3]},
        },
        "dist": {"use": "dist", "student": "student.logits", "teacher": "second.logits"},
        "both": {"use": "soft_target", "student": "student.logits", "teacher": "both"},
        "hint": {"use": "hint", "link": "mid", "weight": MOVING},
        "pairs": {"use": "similarity", "student": "student.mid", "teacher": "second.mid"},
        "kernel": {"use": "pkt", "student": "student.mid", "teacher": "teacher.mid"},
        "attention": {"use": "attention_transfer", "link": "mid"},
    },
}


def small(*without: str) -> tuple[kdgraph.DistillModule, dict[str, Tensor]]:
    torch.manual_seed(0)
    models = {"teacher": Net(6), "second": Net(6), "student": Net(4)}
    step = kdgraph.compile(SMALL, models=models, without=without)
    return step, batch_of(5)


def batch_of(size: int) -> dict[str, Tensor]:
    return {"image": torch.randn(size, 3, 8, 8), "label": torch.arange(size) % 7}


@pytest.mark.parametrize("without", [*PASSES.names(), "all"])
def test_one_graph_without_a_pass(without: str) -> None:
    step, batch = small(*(PASSES.names() if without == "all" else [without]))
    state = copy.deepcopy(step.state_dict())
    plain = result(step, state, batch)
    run, counter = compiled(step, "eager")  # Dynamo alone
    close(result(run, state, batch), plain)
    assert counter.frame_count == 1


def test_schedules_and_modes_make_no_graph_anew() -> None:
    step, batch = small()
    state = copy.deepcopy(step.state_dict())
    run, counter = compiled(step, "eager")
    totals = []
    for epoch in range(3):
        step.set_progress(epoch=epoch)
        step.train()
        now = {**state, "steer._extra_state": step.state_dict()["steer._extra_state"]}
        close(result(run, now, batch), result(step, now, batch))
        totals.append(run(**batch).loss.item())
        step.eval()
        with torch.no_grad():
            torch.testing.assert_close(run(**batch).loss, step(**batch).loss, rtol=1e-5, atol=1e-6)
    assert len({round(t, 5) for t in totals}) == 3
    assert counter.frame_count == 2, "one graph for training and one for validation"


def test_a_last_batch_of_another_size_makes_one_more_graph() -> None:
    step, batch = small()
    state = copy.deepcopy(step.state_dict())
    run, counter = compiled(step, "eager")
    result(run, state, batch)
    for size in (3, 5, 4, 6):
        odd = batch_of(size)
        close(result(run, state, odd), result(step, state, odd))
    assert counter.frame_count == 2, "a size that moves becomes a free one, once"


def test_inductor_takes_it() -> None:
    step, batch = small()
    state = copy.deepcopy(step.state_dict())
    plain = result(step, state, batch)
    run, counter = compiled(step, "inductor")
    close(result(run, state, batch), plain)
    assert counter.frame_count == 1
