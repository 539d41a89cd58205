"""The cost of a step as data: before and after the passes, batch size, optimiser."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.runtime.report import Report
from kdgraph.spec.training import Optimizer
from kdgraph.visual import manifest
from kdgraph.visual.costs import OPTIMIZER_STATES, costs, optimizer_copies

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "small",
    "batch": {"x": {"shape": ["B", 4]}},
    "models": {"teacher": {"taps": {"out": "0"}}, "student": {"taps": {"out": "0"}}},
    "losses": {"hint": {"use": "hint", "student": "student.out", "teacher": "teacher.out"}},
}


def plan(**changes: Any) -> Report:
    models = {name: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)) for name in SPEC["models"]}
    return kdgraph.plan({**SPEC, **changes}, models=models)


def test_the_manifest_says_it_of_the_step_and_of_each_node(report: Report) -> None:
    facts = json.loads(json.dumps(manifest(report, batch=6)))
    cost = facts["cost"]
    assert cost["batch"] == 6
    assert cost["owners"].keys() >= {"teacher", "student", "losses.hint", "losses.label"}
    assert sum(cost["memory"].values()) == cost["peak_bytes"]
    each = [node["cost"]["flops_forward"] for node in facts["nodes"] if "cost" in node]
    assert sum(each) == cost["total"]["flops_forward"] > 0


def test_it_can_be_left_out(report: Report) -> None:
    facts = manifest(report, cost=False)
    assert "cost" not in facts
    assert not any("cost" in node for node in facts["nodes"])


def test_what_the_passes_save() -> None:
    cost = costs(plan(), 5)
    before, after = cost["before_passes"]["owners"], cost["owners"]
    assert before["teacher"]["flops_forward"] == 2 * 5 * (4 * 3 + 3 * 2)
    assert after["teacher"]["flops_forward"] == 2 * 5 * 4 * 3
    assert cost["before_passes"]["memory"]["frozen"] == 4 * (15 + 8)
    assert cost["memory"]["frozen"] == 4 * 15
    assert cost["before_passes"]["peak_bytes"] > cost["peak_bytes"]


def test_the_batch_is_asked_for_or_written_or_an_example() -> None:
    data = {"use": "digits", "batch_size": 48}
    named = {
        **SPEC["batch"],
        "label": {"shape": ["B"], "dtype": "int64", "classes": 10},
    }
    written = plan(data=data, batch=named)
    assert (costs(written)["batch"], costs(written)["batch_from"]) == (48, "data.batch_size")
    assert (costs(written, 9)["batch"], costs(written, 9)["batch_from"]) == (9, "--batch")
    assert costs(plan())["batch_from"] == "example"
    fixed = costs(plan(batch={"x": {"shape": [7, 4]}}), 9)
    assert (fixed["batch"], fixed["batch_from"]) == (7, "the spec's shapes")


def test_the_optimiser_comes_on_top() -> None:
    train = {"epochs": 1, "optimizer": {"use": "Adam", "lr": 0.1}, "metrics": ["accuracy"]}
    cost = costs(plan(train=train))
    assert cost["optimizer"] == {"use": "Adam", "state_bytes": 2 * 4 * 23}
    assert costs(plan())["optimizer"] is None
    train["optimizer"] = {"use": "Adafactor"}
    assert costs(plan(train=train))["optimizer"]["state_bytes"] is None


@pytest.mark.parametrize(
    ("use", "extra"),
    [
        *((use, {}) for use in OPTIMIZER_STATES),
        ("SGD", {"momentum": 0.9}),
        ("Adam", {"amsgrad": True}),
        ("AdamW", {"amsgrad": True}),
        ("RMSprop", {"momentum": 0.9, "centered": True}),
    ],
)
def test_optimisers_keep_what_is_said(use: str, extra: dict[str, Any]) -> None:
    weight = nn.Parameter(torch.ones(100))
    weight.grad = torch.ones(100)
    optimizer = getattr(torch.optim, use)([weight], lr=0.1, **extra)
    optimizer.step()
    kept = [v for v in optimizer.state[weight].values() if isinstance(v, Tensor)]
    numbers = sum(v.numel() for v in kept if v.numel() > 1)
    assert optimizer_copies(Optimizer(use=use, **extra)) == numbers / 100


def test_a_step_costs_the_same_wherever_it_is_asked(report: Report) -> None:
    """In a validation, which torch runs without gradients, and under autocast."""
    told = manifest(report)["cost"]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        again = manifest(report)["cost"]
    assert told["total"]["flops_backward"] > 0
    assert {**again, "seconds": 0} == {**told, "seconds": 0}
