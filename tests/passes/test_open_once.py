"""Stages of one spec share what was opened of their frozen models."""

from __future__ import annotations

from typing import Any

import pytest

import kdgraph
from kdgraph.compiler import plans
from kdgraph.passes import _open

MODEL = {"source": "cifar/resnet8", "args": {"in_channels": 1, "width": 0.25}}
TAPS = {"taps": {"logits": "output"}}


def spec(*stages: dict[str, Any]) -> dict[str, Any]:
    sides = {"student": "student.logits", "teacher": "teacher.logits"}
    return {
        "kdgraph": 1,
        "name": "stages",
        "batch": {"image": {"shape": ["B", 1, 8, 8]}},
        "models": {"teacher": {**MODEL, **TAPS}, "student": {**MODEL, **TAPS}},
        "losses": {"soft": {"use": "soft_target", **sides}, "mse": {"use": "logit_mse", **sides}},
        "stages": list(stages),
    }


STAGES = [{"name": "one", "losses": {"mse": 0}}, {"name": "two", "losses": {"soft": 0}}]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of the modules that were opened, in order."""
    found: list[str] = []
    open_module = _open.open_module

    def noted(module: Any, *args: Any) -> Any:
        found.append(type(module).__name__)
        return open_module(module, *args)

    monkeypatch.setattr(_open, "open_module", noted)
    return found


def test_a_second_stage_opens_nothing_again(opened: list[str]) -> None:
    found = plans(spec(*STAGES))
    first = next(found)
    once = list(opened)
    (second,) = found
    assert once
    assert opened == once
    for report in (first, second):
        alone = kdgraph.plan(spec(*STAGES), stage=report.spec.leg)
        assert str(report.graph) == str(alone.graph)
        assert report.records[-1].did == alone.records[-1].did
