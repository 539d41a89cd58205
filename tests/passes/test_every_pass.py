"""What every optional pass has to hold; a new one is picked up by its name.

It is tried on a distillation with a little of everything: links with adapters, a signal, a weight
that moves, a second teacher, modules that do nothing, layers behind the last tap.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.graph.verify import verify
from kdgraph.passes.base import PASSES, Context
from kdgraph.passes.manager import Record
from kdgraph.passes.pipeline import MANDATORY, pipeline

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "small",
    "batch": {
        "image": {"shape": ["B", 3, 8, 8]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 3},
    },
    "models": {
        "teacher": {"taps": {"early": "3", "mid": "6", "logits": "output"}},
        "second": {"taps": {"mid": "6"}},
        "student": {"taps": {"early": "3", "mid": "6", "logits": "output"}},
    },
    "links": {
        "early": {"student": "student.early", "teacher": "teacher.early", "adapter": "auto"},
        "mid": {"student": "student.mid", "teacher": "teacher.mid", "adapter": "auto"},
    },
    "signals": {"still": {"use": "detach", "of": "student.logits"}},
    "losses": {
        "task": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "soft": {
            "use": "soft_target",
            "student": "student.logits",
            "teacher": "teacher.logits",
            "weight": {"linear": [1.0, 0.5], "epochs": [0, 10]},
        },
        "early": {"use": "attention_transfer", "link": "early"},
        "mid": {"use": "hint", "link": "mid", "weight": 0.5},
        "second": {"use": "similarity", "student": "student.mid", "teacher": "second.mid"},
        "still": {"use": "logit_mse", "student": "student.logits", "teacher": "still"},
    },
}

every_pass = pytest.mark.parametrize("name", PASSES.names())
ASKED_FOR = [name for name, p in PASSES.items() if not p.default]


def net(width: int) -> nn.Module:
    """Both kinds of normalisation, an in-place activation and a skip that is none."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Identity(),
        nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(width),
        nn.Linear(width, 3),
    )


@cache
def compiled(*without: str) -> kdgraph.DistillModule:
    """The same distillation, with all weights the same, less some passes."""
    torch.manual_seed(0)
    models = {"teacher": net(6), "second": net(5), "student": net(4)}
    return kdgraph.compile(SPEC, models=models, without=without, also=ASKED_FOR)


def record_of(name: str) -> Record:
    (record,) = [r for r in compiled().report.records if r.name == name]
    return record


def loss_and_gradients(step: kdgraph.DistillModule) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    image = torch.randn(5, 3, 8, 8, generator=random)
    output = step(image=image, label=torch.tensor([0, 1, 2, 0, 1]))
    names, leaves = zip(*step.named_parameters(), strict=True)
    grads = torch.autograd.grad(output.loss, leaves)
    return {"total": output.loss, **output.losses, **dict(zip(names, grads, strict=True))}


def test_there_are_passes() -> None:
    assert "prune" in PASSES.names()
    assert {p.name for p in pipeline()} == (
        {p.name for p in MANDATORY} | set(PASSES.names()) - set(ASKED_FOR)
    )


@every_pass
def test_same_loss_and_gradients_without_it(name: str) -> None:
    with_it, without_it = loss_and_gradients(compiled()), loss_and_gradients(compiled(name))
    assert with_it.keys() == without_it.keys()
    for key, value in with_it.items():  # only rounding may differ
        torch.testing.assert_close(value, without_it[key], rtol=1e-4, atol=1e-6, msg=key)


@every_pass
def test_a_second_run_changes_nothing(name: str) -> None:
    once = record_of(name).after
    again = PASSES.get(name).run(once.copy(), Context(once.spec))
    assert not verify(again)
    assert str(again) == str(once)


@every_pass
def test_it_leaves_the_graph_it_was_given(name: str) -> None:
    record = record_of(name)
    before = str(record.before)
    PASSES.get(name).run(record.before.copy(), Context(record.before.spec))
    assert str(record.before) == before
    assert verify(record.before) == []


@every_pass
def test_it_runs_behind_the_one_it_names(name: str) -> None:
    order = [p.name for p in pipeline(also=ASKED_FOR)]
    after = PASSES.get(name).after
    assert after is not None, "a mandatory pass stands in pipeline.py"
    assert order.index(after) < order.index(name)
    assert name not in [p.name for p in pipeline([name], also=ASKED_FOR)]


@every_pass
def test_it_says_what_becomes_of_what(name: str) -> None:
    doc = PASSES.get(name).run.__doc__ or ""
    first = doc.splitlines()[0] if doc else ""
    assert "->" in first, f"start the docstring of {name}: ``before`` becomes ``after``, with ->"
    assert first.endswith(".")
