"""Whole runs on real digits: what is trained, compared, kept, resumed and reused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import kdgraph.train
from kdgraph.models.load import build_model
from kdgraph.train.learner import Learner
from kdgraph.train.result import Result

Weights = dict[str, torch.Tensor]


def go(spec: dict[str, Any], out: Path, **options: Any) -> Result:
    return kdgraph.train.run(spec, out=out, device="cpu", trust=["small_nets"], **options)


def weights(out: Path) -> Weights:
    return load_file(out / "student.safetensors")


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def logged(run: Path) -> list[dict[str, str]]:
    (path,) = run.rglob("metrics.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def test_compare_trains_all_three(make_spec: Any, tmp_path: Path) -> None:
    result = go(make_spec(), tmp_path, compare=True, seeds=2)
    assert [r.seed for r in result.runs] == [r.seed for r in result.alone] == [0, 1]
    assert [t.name for t in result.teachers] == ["teacher"]
    assert {r.steps for r in [*result.runs, *result.alone]} == {15}  # 3 epochs of 320 // 64
    assert all(r.finished and r.part == "test" for r in result.runs)

    shown = str(result)
    for words in ("teacher", "student alone", "distilled", "standard error", "510 test"):
        assert words in shown
    said = json.loads((tmp_path / "result.json").read_text())
    assert said == json.loads(result.to_json())
    pairs = zip(result.runs, result.alone, strict=True)
    gaps = [d.metrics["accuracy"] - a.metrics["accuracy"] for d, a in pairs]
    assert said["summary"]["difference"]["accuracy"]["mean"] == pytest.approx(sum(gaps) / 2)

    student = build_model("python/small_nets:mlp", {}, trust=["small_nets"])
    student.load_state_dict(weights(tmp_path), strict=True)
    assert not list(tmp_path.rglob(".*"))  # nothing half-written is left


def test_edges_are_logged(make_spec: Any, tmp_path: Path) -> None:
    go(make_spec(), tmp_path, steps=2)
    rows = logged(tmp_path / "distilled" / "seed-0")
    assert {"lr", "loss", "loss/label", "loss/soft", "step"} <= set(rows[0])
    assert [row["step"] for row in rows] == ["1", "2"]


def test_alone_starts_from_the_same_values(
    make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing taken from the teacher, distilled and alone are one and the same training."""
    spec = make_spec(losses={"soft": {**make_spec()["losses"]["soft"], "weight": 0.0}})
    spec["losses"]["label"]["weight"] = 1.0
    # a student alone has a single edge, which is not fused: that differs by rounding
    result = go(spec, tmp_path, compare=True, without=["fuse_losses"])
    seen = [load_file(run.weights or "") for run in (*result.runs, *result.alone)]
    assert same(*seen)


@pytest.mark.parametrize("steps", [1, 5, 7])
def test_resumed_is_as_uninterrupted(make_spec: Any, tmp_path: Path, steps: int) -> None:
    """Stopped within an epoch, at its end, and in the teacher's training as well."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    go(make_spec(), whole)
    cut = go(make_spec(), parts, steps=steps)
    assert cut.runs[0].steps == steps
    assert not cut.runs[0].finished
    assert not same(weights(whole), weights(parts))
    result = go(make_spec(), parts, resume=True)
    assert result.runs[0].finished
    assert same(weights(whole), weights(parts))


@pytest.mark.parametrize("after", [3, 7, 12])
def test_killed_and_resumed_is_as_uninterrupted(
    make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Ends without warning after some batches, in the teacher's training or the student's."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    spec = make_spec(train={
        "teacher": {"epochs": 2},
        "optimizer": {"use": "AdamW", "lr": 0.01},
        "scheduler": {"use": "ReduceLROnPlateau", "patience": 0, "factor": 0.5},
    })  # fmt: skip
    go(spec, whole)
    calls = 0
    step = Learner.training_step

    def dies(self: Learner, batch: Any, index: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > after:
            raise RuntimeError("killed")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "training_step", dies)
        with pytest.raises(RuntimeError, match="killed"):
            go(spec, parts)
    go(spec, parts, resume=True)
    assert same(weights(whole), weights(parts))


def test_resume_refuses_another_run(make_spec: Any, tmp_path: Path) -> None:
    go(make_spec(), tmp_path, steps=1)
    with pytest.raises(kdgraph.KDGraphError, match="KD716"):
        go(make_spec(data={"limit": 256}), tmp_path, resume=True)


def test_teacher_is_trained_once(make_spec: Any, tmp_path: Path) -> None:
    first = go(make_spec(), tmp_path).teachers[0]
    place = tmp_path / "teacher" / "weights.safetensors"
    written = place.stat().st_mtime_ns
    second = go(make_spec(), tmp_path, seeds=1).teachers[0]
    assert second == first
    assert place.stat().st_mtime_ns == written
    go(make_spec(train={"teacher": {"epochs": 2}}), tmp_path, steps=9)
    assert place.stat().st_mtime_ns != written


def test_a_teacher_with_a_seed_of_its_own(make_spec: Any, tmp_path: Path) -> None:
    """Equal networks no longer start from equal values; the student alone is as it was."""
    still = {"use": "SGD", "lr": 1e-30}  # so that what is saved is what it started from
    found = {}
    for seed in (None, 7):
        spec = make_spec(train={"teacher": {"epochs": 1, "optimizer": still, "seed": seed}})
        spec["models"]["teacher"]["args"] = {}
        spec["train"] |= {"optimizer": still, "scheduler": None}
        out = tmp_path / str(seed)
        assert go(spec, out, compare=True, steps=1).teachers[0].seed == (seed or 0)
        paths = {"teacher": out / "teacher", "alone": out / "alone" / "seed-0"}
        found[seed] = {n: load_file(p / "weights.safetensors") for n, p in paths.items()}
        assert torch.equal(weights(out)["1.weight"], found[seed]["alone"]["1.weight"])
    shared, own = found[None], found[7]
    assert torch.equal(shared["teacher"]["1.weight"], shared["alone"]["1.weight"])
    assert not torch.equal(own["teacher"]["1.weight"], own["alone"]["1.weight"])
    assert same(shared["alone"], own["alone"])


def test_passes_when_scored_leave_the_training_as_it_is(make_spec: Any, tmp_path: Path) -> None:
    found = {}
    for passes in (None, 4):
        spec = make_spec(train={"evaluate": {"passes": passes}, "epochs": 2})
        spec["train"]["metrics"] = ["accuracy", {"use": "calibration_error", "n_bins": 15}]
        out = tmp_path / str(passes)
        found[passes] = (go(spec, out).runs[0].metrics, weights(out))
    assert found[4][0] != found[None][0]
    assert same(found[4][1], found[None][1])


def test_early_stop_and_best(make_spec: Any, tmp_path: Path) -> None:
    spec = make_spec(train={
        "epochs": 30, "keep": "best", "early_stop": {"patience": 2},
        "optimizer": {"use": "SGD", "lr": 1e-9}, "scheduler": None,
    })  # fmt: skip
    run = go(spec, tmp_path).runs[0]
    assert run.finished
    assert run.epochs < 30
    again = go(spec, tmp_path, resume=True).runs[0]
    assert (again.epochs, again.metrics) == (run.epochs, run.metrics)


def test_accumulated_batches_are_one_step(make_spec: Any, tmp_path: Path) -> None:
    spec = make_spec(train={"accumulate": 2, "grad_clip": 1.0, "epochs": 2})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert go(spec, whole).runs[0].steps == 6  # 5 batches an epoch: 2, 2 and the odd one
    go(spec, parts, steps=4)
    go(spec, parts, resume=True)
    assert same(weights(whole), weights(parts))


def test_a_teacher_that_comes_trained_is_scored_to_compare(make_spec: Any, tmp_path: Path) -> None:
    first = go(make_spec(), tmp_path / "one")
    spec = make_spec(train={"teacher": None})
    spec["models"]["teacher"]["weights"] = str(tmp_path / "one" / "teacher/weights.safetensors")
    result = go(spec, tmp_path / "two", compare=True, steps=1)
    assert result.teachers[0].metrics == first.teachers[0].metrics
