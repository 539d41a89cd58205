"""Staged training: lengths, turns, actions, and runs that are killed anywhere and resumed."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import kdgraph
from kdgraph import train
from kdgraph.runtime.module import DistillModule
from kdgraph.runtime.stages import Stages
from kdgraph.train.keep import Keeper
from kdgraph.train.learner import Learner

NET = {"source": "python/staged_nets:mlp"}
NETS = """
from torch import nn

def mlp(width=12):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1),
        nn.Linear(width, 10),
    )
"""
SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "staged",
    "batch": {
        "image": {"shape": ["B", 1, 8, 8]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 10},
    },
    "models": {
        "student": {**NET, "taps": {"logits": "output"}},
        "helper": {**NET, "trainable": True, "taps": {"logits": "output"}},
    },
    "losses": {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "of_helper": {"use": "cross_entropy", "student": "helper.logits", "target": "label"},
        "helped": {
            "use": "soft_target", "student": "student.logits", "teacher": "helper.logits",
            "tau": 2, "weight": {"linear": [0, 1], "epochs": [0, 2]},
        },
    },
    "stages": [
        {
            "name": "helper", "epochs": 2, "trainable": {"student": False},
            "losses": {"label": 0, "helped": 0}, "optimizer": {"use": "Adam", "lr": 0.01},
            "during": [{"use": "quantize", "modules": "helper.1", "bits": 4, "every": 9,
                        "start": 1}],
        },
        {
            "name": "turns", "rounds": 1, "batch_size": 25, "keep": "best",
            "before": [{"use": "reinit", "modules": "student.5"}],
            "phases": [
                {"name": "student", "trainable": {"helper": False}, "losses": {"of_helper": 0}},
                {"name": "helper", "trainable": {"student": False},
                 "losses": {"label": 0, "helped": 0}},
            ],
        },
        {
            "name": "steps", "epochs": 2, "before": [{"use": "freeze", "modules": "student.1"}],
            "phases": [
                {"name": "student", "steps": 1, "trainable": {"helper": False},
                 "losses": {"of_helper": 0}},
                {"name": "helper", "steps": 1, "trainable": {"student": False},
                 "losses": {"label": 0, "helped": 0}},
            ],
        },
    ],
    "data": {"use": "digits", "limit": 100, "batch_size": 50, "augment": {"shift": 1}},
    "train": {
        "epochs": 1,
        "optimizer": {
            "use": "SGD", "lr": 0.1, "momentum": 0.9,
            "groups": [{"params": "*.5.*", "lr": 0.05}],
        },
        "scheduler": {"use": "CosineAnnealingLR", "T_max": "auto", "interval": "step"},
    },
}  # fmt: skip


class Killed(BaseException):
    """What no code catches."""


@pytest.fixture(scope="module", autouse=True)
def nets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "staged_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


def go(folder: Path, spec: dict[str, Any] = SPEC, **how: Any) -> Any:
    return train.run(spec, out=folder, trust=["staged_nets"], **how)


def result(folder: Path) -> dict[str, Any]:
    run = folder / "distilled" / "seed-0"
    state = torch.load(run / "last.ckpt", weights_only=True)
    stages = bytes(state["distill"].pop("stages._extra_state").tolist())
    done = torch.load(io.BytesIO(stages), weights_only=True)
    return {
        "distill": state["distill"],
        "done": done,
        "optimizer": state["optimizer"],
        "log": state["history"],
    }


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    go(folder)
    return folder


def test_stages_follow_each_other(whole: Path) -> None:
    log = result(whole)["log"]
    assert [row["epoch"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in log] == [
        2,
        4,
        8,
        12,
        14,
        16,
    ]  # batches of 50, of 25, of 50
    edges = [{k for k in row if k.startswith("loss/")} for row in log]
    student, helper = {"loss/label", "loss/helped"}, {"loss/of_helper"}
    assert edges == [helper, helper, student, helper, student | helper, student | helper]


def test_students_of_stages_and_other_models_are_written(whole: Path) -> None:
    run = whole / "distilled" / "seed-0"
    assert {p.name for p in (run / "stages").iterdir()} == {
        "helper.safetensors",
        "turns.safetensors",
    }
    helper = load_file(run / "models" / "helper.safetensors")
    assert len(helper["1.weight"].unique()) <= 15  # quantised to 4 bits, and folded


def test_what_actions_did_is_in_the_result(whole: Path) -> None:
    run = json.loads((whole / "result.json").read_text())["runs"][0]
    assert [(a["stage"], a["place"], a["epoch"]) for a in run["actions"]] == [
        ("helper", "during", 1), ("turns", "before", 0), ("steps", "before", 0)
    ]  # fmt: skip
    assert (run["epochs"], run["steps"], run["finished"]) == (6, 16, True)


def test_each_epoch_stopped_and_resumed(whole: Path, tmp_path: Path) -> None:
    for steps in (1, 2, 4, 7, 8, 11, 13, 14, 15, None):
        go(tmp_path, steps=steps, resume=True)
    assert equal(result(tmp_path), result(whole))


def test_a_limit_of_steps_does_not_end_a_stage(tmp_path: Path) -> None:
    spec = copy.deepcopy(SPEC)
    spec["stages"][0]["after"] = [{"use": "reinit", "modules": "helper.5"}]
    run = go(tmp_path, spec, steps=3).runs[0]
    assert (run.finished, [a["place"] for a in run.actions]) == (False, ["during"])


def points() -> list[tuple[str, int]]:
    """Thirty places to die at: the n-th call of something."""
    chosen = random.Random(7)
    steps = [("step", n) for n in chosen.sample(range(1, 17), 12)]
    saves = [("save", n) for n in range(1, 7)]
    written = [("written", n) for n in range(1, 7)]
    actions = [("action", n) for n in range(1, 4)]
    stages = [("stage", n) for n in range(1, 4)]
    return steps + saves + written + actions + stages


def dies(monkeypatch: pytest.MonkeyPatch, place: str, number: int) -> None:
    """Lets the n-th call of something be the last."""
    owner, name, after = {
        "step": (Learner, "training_step", True),
        "save": (Keeper, "save", False),
        "written": (Keeper, "save", True),
        "action": (Stages, "_apply_one", True),
        "stage": (DistillModule, "set_stage", True),
    }[place]
    before, calls = getattr(owner, name), []

    def call(*args: Any, **kw: Any) -> Any:
        calls.append(1)
        if len(calls) == number and not after:
            raise Killed
        value = before(*args, **kw)
        if len(calls) == number:
            raise Killed
        return value

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize(("place", "number"), points())
def test_killed_and_resumed(
    whole: Path, tmp_path: Path, place: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        dies(patch, place, number)
        with pytest.raises(Killed):
            go(tmp_path)
    go(tmp_path, resume=True)
    assert equal(result(tmp_path), result(whole))


def test_one_optimiser_is_as_if_each_model_had_its_own() -> None:
    """A model that waits keeps its moments; none of them moves it."""
    spec = copy.deepcopy(SPEC)
    spec["stages"] = [spec["stages"][2]]
    step = kdgraph.compile(spec, trust=["staged_nets"])
    both = torch.optim.SGD(step.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    twin = copy.deepcopy(step)
    own = {
        name: torch.optim.SGD(twin.models[name].parameters(), 0.1, momentum=0.9, weight_decay=0.1)
        for name in ("student", "helper")
    }
    batch = {"image": torch.rand(8, 1, 8, 8), "label": torch.arange(8)}
    for turn in range(2):
        for name in ("student", "helper"):
            for one, optimizer in ((step, both), (twin, own[name])):
                one.set_stage(f"steps.{name}")
                optimizer.zero_grad()
                torch.manual_seed(turn)
                one(**batch).loss.backward()
                optimizer.step()
    assert equal(dict(step.models.state_dict()), dict(twin.models.state_dict()))


def test_gradients_are_clipped_as_if_each_model_had_its_own_optimiser(tmp_path: Path) -> None:
    """How steep it is for another model that learns beside it moves no student."""
    spec = {**SPEC, "stages": [], "train": {**SPEC["train"], "grad_clip": 0.1}}
    found = []
    for weight in (1, 100):
        edges = {"label": SPEC["losses"]["label"]}
        edges["of_helper"] = {**SPEC["losses"]["of_helper"], "weight": weight}
        go(tmp_path / str(weight), {**spec, "losses": edges})
        found.append(load_file(tmp_path / str(weight) / "student.safetensors"))
    assert equal(*found)


def test_student_alone_trains_as_long_as_the_student_does(tmp_path: Path) -> None:
    found = go(tmp_path, compare=True)
    (alone,) = found.alone
    assert alone.epochs == 2  # one of its turn in `turns`, half of two in `steps`


def test_an_unknown_group_is_an_error_with_its_place(tmp_path: Path) -> None:
    spec = copy.deepcopy(SPEC)
    spec["train"]["optimizer"]["groups"][0]["params"] = "student.fcc.*"
    with pytest.raises(Exception, match=r"no trained parameter is called 'student\.fcc"):
        go(tmp_path, spec)


def test_a_changed_file_of_an_action_is_another_run(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    step = kdgraph.compile(SPEC, trust=["staged_nets"])
    weights = dict(step.models["student"].state_dict())
    path = tmp_path / "w.safetensors"
    save_file(weights, path)
    spec = copy.deepcopy(SPEC)
    load = {"use": "load", "module": "student", "weights": str(path)}
    spec["stages"] = [{"name": "one", "before": [load], "losses": {"of_helper": 0}}]
    spec["stages"][0]["trainable"] = {"helper": False}
    go(tmp_path / "run", spec, steps=1)
    go(tmp_path / "run", spec, steps=1, resume=True)
    save_file({name: value + 1 for name, value in weights.items()}, path)
    with pytest.raises(kdgraph.KDGraphError, match="KD716"):
        go(tmp_path / "run", spec, resume=True)
