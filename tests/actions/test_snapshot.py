"""A snapshot is taken when the spec says so."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import kdgraph
from kdgraph.actions._snapshots import follow
from kdgraph.actions._world import World
from kdgraph.actions.freeze import Freeze
from kdgraph.actions.quantize import Quantize
from kdgraph.actions.unfreeze import Unfreeze
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


def staged(*before: list[Any], **models: Any) -> tuple[kdgraph.DistillModule, list[list[str]]]:
    """Actions stage by stage, the last stage entered; what they said. With a deeper student."""
    torch.manual_seed(0)
    stages = [{"name": f"s{number}", "before": actions} for number, actions in enumerate(before)]
    nets = {"student": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), **models}
    written = {name: {"taps": {"logits": "output"}} for name in models}
    spec = {**SPEC, "models": {**SPEC["models"], **written}, "stages": stages}
    step = kdgraph.compile(spec, models=nets)
    for number in range(1, len(before)):
        step.set_stage(f"s{number}")
    assert step.stages is not None
    return step, [done.lines for done in step.stages.log]


TAKEN = "past: taken anew of student, which was rebuilt"


def test_bits_of_a_snapshot_follow() -> None:
    quantize = {"use": "quantize", "modules": "student"}
    step, said = staged([{**quantize, "bits": 8}], [{**quantize, "bits": 2}])
    assert distances(step) == (False, False)
    assert TAKEN in said[1]


def test_a_snapshot_has_the_segment_that_runs() -> None:
    teacher = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    graft = {"use": "graft", "at": "student.0", "scion": "teacher.0"}
    ungraft, unfreeze = ({"use": use, "modules": "student"} for use in ("ungraft", "unfreeze"))
    for actions in ([ungraft, unfreeze], [ungraft, graft]):
        step, said = staged([graft], actions, teacher=teacher)
        assert distances(step) == (False, False)
        assert [TAKEN in lines for lines in said] == [True, True, actions[1] is graft]


def test_a_snapshot_stays_what_it_was_where_parts_are_frozen() -> None:
    """Also of a student that actions have changed before, and where statistics stand still."""
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    world = World(kdgraph.load_spec(SPEC), {"student": student})
    quantize = Quantize(modules=("student",))
    quantize.apply(world, quantize.decide(world))
    world.nets = {"student": student, "past": copy.deepcopy(student)}
    for action in (Freeze(modules=("student",)), Unfreeze(modules=("student.1",))):
        action.apply(world, {})
        assert follow(world) == []
