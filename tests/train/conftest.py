"""A small real run: digits, a teacher and a student of two layers with dropout."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NETS = """
from torch import nn

def mlp(width=24, drop=0.2, inputs=64, classes=10):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Dropout(drop), nn.Linear(width, classes),
    )
"""

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "small",
    "batch": {
        "image": {"shape": ["B", 1, 8, 8]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 10},
    },
    "models": {
        "teacher": {
            "source": "python/small_nets:mlp", "args": {"width": 48}, "taps": {"logits": "output"}
        },
        "student": {"source": "python/small_nets:mlp", "taps": {"logits": "output"}},
    },
    "losses": {
        "label": {
            "use": "cross_entropy", "student": "student.logits", "target": "label",
            "weight": {"linear": [1.0, 0.1], "epochs": [0, 2]},
        },
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"},
    },
    "data": {"use": "digits", "limit": 320, "augment": {"shift": 1, "flip": True}},
    "train": {
        "epochs": 3,
        "optimizer": {"use": "SGD", "lr": 0.1, "momentum": 0.9},
        "scheduler": {
            "use": "OneCycleLR", "max_lr": 0.1, "total_steps": "auto", "interval": "step"
        },
        "log_every": 1,
        "teacher": {"epochs": 1},
    },
}  # fmt: skip

MakeSpec = Callable[..., dict[str, Any]]


@pytest.fixture
def make_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSpec:
    """``make_spec(train={...}, data={...})``: the small spec with keys of its blocks changed."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "small_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(folder))

    def make(**changes: dict[str, Any]) -> dict[str, Any]:
        spec = copy.deepcopy(SPEC)
        for block, keys in changes.items():
            spec[block].update(keys)
        return spec

    return make


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without their graph: to draw it takes half a second for each stage of each run."""
    nothing = {"kdgraph_scene": 1, "name": "", "versions": {}, "legs": []}
    monkeypatch.setattr("kdgraph.train.report.report.scene", lambda reports: nothing)
