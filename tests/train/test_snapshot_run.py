"""A snapshot in a whole run: of the best epoch so far, and resumed as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import kdgraph.train
from kdgraph.runtime.module import DistillModule
from kdgraph.spec.read import load_spec
from kdgraph.train.derive import student_alone, teacher_by_itself, to_train
from kdgraph.train.keep import Keeper
from kdgraph.train.learner import Learner


@pytest.fixture
def spec(make_spec: Any) -> dict[str, Any]:
    """The small spec, whose student also learns from its best self."""
    made: dict[str, Any] = make_spec(train={"epochs": 4})
    made["models"]["past"] = {"snapshot_of": "student", "taps": {"logits": "output"}}
    made["models"]["teacher"]["dropout"] = True
    edge = {"use": "soft_target", "student": "student.logits", "teacher": "past.logits"}
    made["losses"]["self"] = edge
    return made


def go(spec: dict[str, Any], out: Path, **options: Any) -> Any:
    return kdgraph.train.run(spec, out=out, device="cpu", trust=["small_nets"], **options)


def checkpoint(out: Path) -> dict[str, torch.Tensor]:
    path = out / "distilled" / "seed-0" / "last.ckpt"
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["distill"]
    return found


@pytest.mark.parametrize("steps", [3, 10, 12])
def test_resumed_is_as_uninterrupted(spec: dict[str, Any], tmp_path: Path, steps: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    go(spec, whole)
    go(spec, parts, steps=steps)
    go(spec, parts, resume=True)
    expected, found = checkpoint(whole), checkpoint(parts)
    assert any(name.startswith("snapshots.past.") for name in expected)
    for name, value in expected.items():
        assert name.endswith("_extra_state") or torch.equal(found[name], value)
    one, other = (load_file(out / "student.safetensors") for out in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_taken_when_an_epoch_is_the_best_so_far(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [0.5, 0.4, 0.6, 0.6]  # the first and the third are better than all before
    taken: list[int] = []
    before, plain = Keeper._compare, DistillModule.snapshot

    def compare(self: Keeper, learner: Learner) -> None:
        learner.found["accuracy"] = scores[learner.epoch - 1]
        before(self, learner)

    def snapshot(self: DistillModule, name: str | None = None) -> None:
        plain(self, name)
        taken.append(1)
        own = self.state_dict()
        for key in self.student.state_dict():
            assert torch.equal(own[f"snapshots.past.{key}"], own[f"models.student.{key}"])

    spec["train"]["teacher"] = None
    monkeypatch.setattr(Keeper, "_compare", compare)
    monkeypatch.setattr(DistillModule, "snapshot", snapshot)
    go(spec, tmp_path)
    assert len(taken) == 2


def test_is_no_teacher_to_train(spec: dict[str, Any]) -> None:
    checked = load_spec(spec)
    assert to_train(checked) == ["teacher"]
    assert list(student_alone(checked).models) == ["student"]
    assert not teacher_by_itself(checked, "teacher").models["teacher"].dropout
    spec["train"]["teacher"]["models"] = ["past"]
    with pytest.raises(kdgraph.KDGraphError, match="'past' is not a frozen model of the spec"):
        to_train(load_spec(spec))
