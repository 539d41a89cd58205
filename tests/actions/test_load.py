"""Weights come from a file or from another model: all of them, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import kdgraph
from kdgraph.actions._world import World
from kdgraph.actions.load import Load
from kdgraph.errors import ActionError, KDGraphError
from kdgraph.models.weights import save_weights

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "load",
    "batch": {"x": {"shape": ["B", 3]}, "label": {"shape": ["B"], "dtype": "int64"}},
    "models": {
        "teacher": {"taps": {"logits": "output"}},
        "student": {"taps": {"logits": "output"}},
    },
    "losses": {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"},
    },
}


def net(width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Sequential(nn.Linear(4, width))
    )


def world(teacher: nn.Module, student: nn.Module, skeleton: bool = False) -> World:
    return World(kdgraph.load_spec(SPEC), {"teacher": teacher, "student": student}, {}, skeleton)


def done(here: World, **keys: Any) -> list[str]:
    action = Load(**keys)
    return action.apply(here, action.decide(here))


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_of_another_model_and_of_a_part() -> None:
    teacher, student = net(), net()
    teacher(torch.randn(9, 3))  # running statistics come along
    here, before = world(teacher, student), state(student[1])
    assert done(here, module=("student.0",), of=("teacher.0",)) == [
        "student.0: weights of teacher.0"
    ]
    assert equal(teacher[0].state_dict(), student[0].state_dict())
    assert equal(student[1].state_dict(), before)
    assert student[0][0].weight is not teacher[0][0].weight  # type: ignore[index]
    done(here, module=("student",), of=("teacher",))
    assert equal(teacher.state_dict(), student.state_dict())


def test_of_a_file_beside_the_spec(tmp_path: Path) -> None:
    saved, student = net(), net()
    save_weights(saved, tmp_path / "first.safetensors")
    torch.save(saved[1].state_dict(), tmp_path / "head.pt")
    here = world(net(), student)
    here.spec._file = str(tmp_path / "spec.yaml")
    done(here, module=("student",), weights="first.safetensors")
    assert equal(saved.state_dict(), student.state_dict())
    done(here, module=("student.1",), weights="head.pt")


def test_all_or_none() -> None:
    student = net(5)
    before = state(student)
    with pytest.raises(ActionError, match=r"KD416.*teacher does not fit.*2 of another shape"):
        done(world(net(), student), module=("student",), of=("teacher",))
    assert equal(before, student.state_dict())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"module": ("student",), "weights": "none.safetensors"}, "there is no weights file"),
        ({"module": ("student",), "weights": "none.txt"}, "is no weights file"),
        ({"module": ("student.*",), "of": ("teacher",)}, "not one module but 5"),
        ({"module": ("student.0",), "of": ("teacher.00",)}, "no module matches 'teacher.00'"),
    ],
)
def test_refusals(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ActionError, match=message):
        done(world(net(), net()), **keys)


def test_one_source() -> None:
    with pytest.raises(ValidationError, match="either 'weights' or 'of'"):
        Load(module=("student",))
    with pytest.raises(ValidationError, match="either 'weights' or 'of'"):
        Load(module=("student",), weights="a.pt", of=("teacher",))


def test_between_stages_with_a_place_in_the_spec(tmp_path: Path) -> None:
    text = """
kdgraph: 1
name: load
batch: {x: {shape: [B, 3]}, label: {shape: [B], dtype: int64, classes: 4}}
models:
  teacher: {taps: {logits: output}}
  student: {taps: {logits: output}}
losses:
  label: {use: cross_entropy, student: student.logits, target: label}
  soft: {use: soft_target, student: student.logits, teacher: teacher.logits}
stages:
  - name: one
  - name: two
    before: [{use: load, module: student, of: teacher}]
"""
    (tmp_path / "spec.yaml").write_text(text)
    teacher, student = net(), net()
    step = kdgraph.compile(tmp_path / "spec.yaml", models={"teacher": teacher, "student": student})
    assert step.set_stage("two") == ["student: weights of teacher"]
    assert equal(teacher.state_dict(), student.state_dict())
    other = nn.Sequential(*net(), nn.Linear(4, 4))
    step = kdgraph.compile(tmp_path / "spec.yaml", models={"teacher": net(), "student": other})
    with pytest.raises(KDGraphError, match=r"spec\.yaml:14:\d+: error\[KD416\]"):
        step.set_stage("two")
