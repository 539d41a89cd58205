"""The manifest, the resolved spec, and the folder that holds them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path

import pytest

import kdgraph
from kdgraph.errors import KDGraphError
from kdgraph.models.load import build_model
from kdgraph.models.weights import save_weights
from kdgraph.runtime.report import Report
from kdgraph.visual import lock, manifest, write_build


def test_manifest_is_json_and_complete(report: Report) -> None:
    facts = json.loads(json.dumps(manifest(report)))
    assert facts["kdgraph_manifest"] == 1
    assert facts["versions"]["torch"] == importlib.metadata.version("torch")
    teacher = facts["models"]["teacher"]
    assert teacher["capture"] == "fx"
    assert teacher["taps"] == {"mid": {"path": "layer2", "shape": ["B", 16, 8, 8]}}
    assert 0 < teacher["parameters_used"] < teacher["parameters"]
    student = facts["models"]["student"]
    assert student["parameters_used"] == student["parameters"]
    assert facts["links"]["mid"]["adapter"] == "conv1x1"
    assert facts["links"]["mid"]["parameters"] == 8 * 16 + 16
    prune = next(p for p in facts["passes"] if p["name"] == "prune")
    assert any("teacher" in line for line in prune["did"])
    assert facts["losses"]["hint"] == {
        "use": "hint",
        "reads": ["mid.student", "mid.teacher"],
        "weight": "linear 1 to 0",
    }


def test_every_node_of_the_manifest_is_known(report: Report) -> None:
    nodes = manifest(report)["nodes"]
    names = {n["name"] for n in nodes}
    assert all(set(n["inputs"]) <= names for n in nodes)
    assert {n["role"] for n in nodes} >= {"batch", "teacher", "student", "adapter", "loss", "total"}
    hint = next(n for n in nodes if n["owner"] == "losses.hint" and n["role"] == "loss")
    assert hint["span"].startswith("<text>:")


def test_manifest_holds_the_hash_of_weights(text: str, tmp_path: Path) -> None:
    args = {"width": 0.5}
    save_weights(build_model("cifar/resnet14", args), tmp_path / "t.safetensors")
    path = tmp_path / "kd.yaml"
    path.write_text(
        text.replace("args: {width: 0.5}", "args: {width: 0.5}\n    weights: t.safetensors")
    )
    teacher = manifest(kdgraph.plan(path))["models"]["teacher"]
    assert (
        teacher["weights_sha256"]
        == hashlib.sha256((tmp_path / "t.safetensors").read_bytes()).hexdigest()
    )


def test_lock_compiles_to_the_same_graph(report: Report) -> None:
    text = lock(report, Path())
    again = kdgraph.plan(text)
    assert str(again.graph) == str(report.graph)
    assert lock(again, Path()) == text


def test_lock_says_all(report: Report) -> None:
    text = lock(report, Path())
    assert "trainable: false" in text
    assert "use: conv1x1" in text
    assert "adapter: auto" not in text
    assert "reduction: mean" in text


def test_lock_reads_texts_that_look_like_numbers_back(text: str, report: Report) -> None:
    spec = kdgraph.load_spec(text.replace("name: pair", "name: '1e-3'"))
    renamed = type(report)(spec, report.captures, report.records, report.graph, report.seconds)
    assert kdgraph.load_spec(lock(renamed, Path())).name == "1e-3"


def test_lock_finds_the_weights_from_where_it_lies(text: str, tmp_path: Path) -> None:
    path = tmp_path / "specs" / "kd.yaml"
    path.parent.mkdir()
    path.write_text(
        text.replace("args: {width: 0.5}", "args: {width: 0.5}\n    weights: t.safetensors")
    )
    report = kdgraph.plan(path)
    write_build(report, tmp_path / "build" / "kd")
    again = kdgraph.load_spec(tmp_path / "build" / "kd" / "spec.lock.yaml")
    weights = again.models["teacher"].weights
    assert weights is not None
    assert (again.folder / weights).resolve() == tmp_path / "specs" / "t.safetensors"


def test_a_build_is_replaced_whole(report: Report, tmp_path: Path) -> None:
    folder = tmp_path / "build"
    first = write_build(report, folder)
    (folder / "__pycache__").mkdir()
    assert [p.name for p in write_build(report, folder)] == [p.name for p in first]
    assert {p.name for p in folder.iterdir()} == {p.name for p in first}
    assert [p.name for p in tmp_path.iterdir()] == ["build"]


def test_a_folder_of_something_else_is_left_alone(report: Report, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(KDGraphError, match=r"KD720.*thesis\.tex"):
        write_build(report, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(KDGraphError, match="is a file"):
        write_build(report, tmp_path / "file")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failed_build_leaves_what_was_there(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "build"
    write_build(report, folder)
    before = (folder / "manifest.json").read_text()

    def broken(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("kdgraph.visual.build.lock", broken)
    with pytest.raises(OSError, match="disk full"):
        write_build(report, folder)
    assert (folder / "manifest.json").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["build"]
