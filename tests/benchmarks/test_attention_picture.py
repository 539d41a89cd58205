"""What a student attends to becomes a picture, with the entropies of its rows."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest
import torch

import kdgraph

ROOT = Path(__file__).parents[2]
KNOWN = [[0.197816111441, 0.802183888559], [0.731058578630, 0.268941421370]]


@pytest.fixture(scope="module", name="script")
def _script() -> ModuleType:
    path = ROOT / "benchmarks" / "attention_picture.py"
    spec = importlib.util.spec_from_file_location("attention_picture", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_known_entropies(script: ModuleType) -> None:
    found = script.entropies(torch.tensor([*KNOWN, [0.0, 1.0]], dtype=torch.float64))
    assert found == pytest.approx([0.497359965936, 0.582203108888, 0], abs=1e-11)


def test_a_cell_for_each_share(script: ModuleType) -> None:
    root = ET.fromstring(script.picture({"routes.<0>": torch.tensor(KNOWN)}))
    cells = [e for e in root.iter() if e.get("fill-opacity")]
    assert [e.get("fill-opacity") for e in cells] == ["0.198", "0.802", "0.731", "0.269"]
    texts = [e.text for e in root.iter() if e.tag.endswith("}text")]
    assert texts == ["routes.<0>", "entropy: mean 0.54, at most 0.69", "0.50", "0.58"]


def test_rows_of_a_tree_are_soft_in_hard_mode_too(script: ModuleType) -> None:
    spec = kdgraph.load_spec(ROOT / "specs" / "methods" / "kdexplainer.yaml")
    models = {"student": spec.models["student"]}
    losses = {"label": spec.losses["label"]}
    alone = spec.model_copy(update={"models": models, "losses": losses, "stages": ()})
    step = kdgraph.compile(alone)
    student = step.student
    student.get_buffer("hard").fill_(True)
    student.get_buffer("epoch").fill_(10)
    rows = script.rows_of(step)
    assert list(rows) == ["routes.0", "routes.1", "routes.2"]
    logits = student.get_parameter("routes.1.log_rows.logits")
    assert torch.allclose(rows["routes.1"], (2 * logits).softmax(1))
    assert student.get_buffer("hard")
