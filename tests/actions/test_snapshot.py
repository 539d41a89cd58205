"""A snapshot is taken when the spec says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import kdgraph
from kdgraph.errors import KDGraphError

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "snapshots",
    "batch": {"x": {"shape": ["B", 3]}, "label": {"shape": ["B"], "dtype": "int64", "classes": 2}},
    "models": {
        "student": {"taps": {"logits": "output"}},
        "past": {"snapshot_of": "student", "taps": {"logits": "output"}},
        "first": {"snapshot_of": "student", "taps": {"logits": "output"}},
    },
    "losses": {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "past": {"use": "soft_target", "student": "student.logits", "teacher": "past.logits"},
        "first": {"use": "soft_target", "student": "student.logits", "teacher": "first.logits"},
    },
}
BATCH = {"x": torch.tensor([[1.0, 2.0, -1.0]]), "label": torch.tensor([1])}


def compiled(action: dict[str, Any]) -> kdgraph.DistillModule:
    torch.manual_seed(0)
    stage = {"name": "all", "during": [{"use": "snapshot", **action}]}
    return kdgraph.compile({**SPEC, "stages": [stage]}, models={"student": nn.Linear(3, 2)})


def distances(step: kdgraph.DistillModule) -> tuple[bool, bool]:
    """Whether the student is away from each copy."""
    losses = step(**BATCH).losses
    return losses["past"].item() > 1e-6, losses["first"].item() > 1e-6


def test_all_or_one_when_it_is_due() -> None:
    for action, after in (({}, (False, False)), ({"model": "past"}, (False, True))):
        step = compiled({**action, "when": "best"})
        with torch.no_grad():
            step.student.get_parameter("weight").add_(torch.tensor([[1.0], [-1.0]]))
        assert step.after_epoch(1) == []
        assert distances(step) == (True, True)
        lines = step.after_epoch(2, best=True)
        assert lines[0] == "past: taken of student"
        assert distances(step) == after


def test_what_is_no_snapshot_is_refused() -> None:
    with pytest.raises(KDGraphError, match="model 'student' is no snapshot"):
        compiled({"model": "student"}).after_epoch(1)
    with pytest.raises(KDGraphError, match="there is no model 'pas'"):
        compiled({"model": "pas"})
