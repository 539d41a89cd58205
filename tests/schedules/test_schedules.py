"""What every registered schedule has to hold, tried on the YAML in its docstring."""

from __future__ import annotations

import inspect
import math
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kdgraph.spec.steer import SCHEDULES, Schedule, Steer, Tau, Weight

PROGRESS = st.floats(0, 1e9)


def _example(kind: str) -> Schedule:
    doc = inspect.getdoc(SCHEDULES.get(kind)) or ""
    found = re.match(r"``(\{.*?\})``: .*\.$", doc.splitlines()[0])
    assert found, f"start the docstring of {kind} with its YAML: ``{{{kind}: ...}}``: what it does."
    value = TypeAdapter(Steer).validate_python(yaml.safe_load(found[1]))
    assert isinstance(value, Schedule)
    assert value.kind == kind
    return value


every_schedule = pytest.mark.parametrize("kind", SCHEDULES.names())


@every_schedule
@given(epoch=PROGRESS, iteration=PROGRESS)
def test_stays_within_its_values(kind: str, epoch: float, iteration: float) -> None:
    schedule = _example(kind)
    value = schedule.at(epoch=epoch, iteration=iteration)
    assert min(schedule.values()) <= value <= max(schedule.values())


@every_schedule
def test_starts_at_the_first_value_and_ends_at_the_last(kind: str) -> None:
    schedule = _example(kind)
    assert schedule.at(epoch=0, iteration=0) == schedule.values()[0]
    assert schedule.at(epoch=1e9, iteration=1e9) == schedule.values()[-1]


@every_schedule
def test_is_a_python_float(kind: str) -> None:
    value = _example(kind).at(epoch=30, iteration=3000)
    assert type(value) is float
    assert math.isfinite(value)


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (Weight, {"linear": [1, -0.1], "epochs": [0, 5]}),
        (Tau, {"cosine": [4, 0], "epochs": [0, 5]}),
        (Tau, {"steps": [4, 0, 1], "epochs": [1, 5]}),
        (Weight, {"constant": -1.0}),
        (Weight, {"linear": [1, 0]}),
        (Weight, {"linear": [1, 0], "epochs": [0, 5], "iterations": [0, 5]}),
        (Weight, {"linear": [1, 0], "epochs": [5, 5]}),
        (Weight, {"linear": [1, 0], "epochs": [-1, 5]}),
        (Weight, {"linear": [1, 0, 1], "epochs": [0, 5]}),
        (Weight, {"linear": [1, 0], "epochs": [0, 5, 6]}),
        (Weight, {"linear": [1, math.nan], "epochs": [0, 5]}),
        (Weight, {"linear": [1, 0], "epochs": [0, math.inf]}),
        (Weight, {"steps": [1, 0], "epochs": []}),
        (Weight, {"steps": [1, 0], "epochs": [1, 2]}),
        (Weight, {"steps": [1, 0, 1], "epochs": [2, 1]}),
        (Weight, {"steps": [1, 0, 1]}),
        (Weight, {"constant": 1, "epochs": [0, 1]}),
    ],
)
def test_refuses(kind: object, written: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(written)
