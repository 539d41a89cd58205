"""CCD over two views: the shipped signals and losses on known numbers, and a few steps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import kdgraph
from kdgraph.spec.read import load_spec
from kdgraph.train import run
from kdgraph.train.derive import student_alone, teacher_by_itself

PATH = Path(__file__).parents[2] / "specs" / "methods" / "ccd_jda.yaml"
PLAIN = Path(__file__).parents[2] / "benchmarks" / "methods" / "ccd_jda_plain.yaml"
SHIPPED = yaml.safe_load(PATH.read_text())
VIEWS = ("student", "student_view", "teacher", "teacher_view")


class Given(nn.Module):
    """Hands logits on, times a number that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.one


def spec_of(classes: int, **losses: dict[str, Any]) -> dict[str, Any]:
    """The shipped models, signals and losses over logits that the batch brings."""
    rows = {"shape": ["B", classes], "dtype": "float64"}
    models = copy.deepcopy(SHIPPED["models"])
    for model in models.values():
        for key in ("source", "args"):
            model.pop(key, None)
    spec = {
        "kdgraph": 1,
        "name": "terms",
        "batch": {
            **{f"z_{name}": rows for name in VIEWS},
            "label": {"shape": ["B"], "dtype": "int64", "classes": classes},
        },
        "models": {name: {**model, "input": f"z_{name}"} for name, model in models.items()},
        "signals": copy.deepcopy(SHIPPED["signals"]),
        "losses": copy.deepcopy(SHIPPED["losses"]),
    }
    for name, keys in losses.items():
        spec["losses"][name] |= keys
    return spec


def step_of(spec: dict[str, Any]) -> kdgraph.DistillModule:
    return kdgraph.compile(spec, models={"teacher": Given(), "student": Given()})


def golden(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    values = {
        "student": [[0.5, 0.2, -0.1], [-0.2, 0.4, 0.1]],
        "student_view": [[0.1, 0.3, 0.0], [0.0, 0.1, 0.2]],
        "teacher": [[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]],
        "teacher_view": [[1.0, 2.0, 0.0], [0.0, 1.0, 2.0]],
    }
    batch = {f"z_{name}": torch.tensor(v, dtype=dtype) for name, v in values.items()}
    return {**batch, "label": torch.tensor([0, 1])}


@pytest.mark.parametrize(("dtype", "rel"), [("float64", 1e-8), ("float32", 1e-5)])
def test_golden(dtype: str, rel: float) -> None:
    step, batch = step_of(spec_of(3)), golden(getattr(torch, dtype))
    step.to(getattr(torch, dtype))
    out = step(**batch)
    loss, parts = out.loss.item(), {name: value.item() for name, value in out.losses.items()}
    cosine = step.signals["agreement"](of=batch["z_teacher"], to=batch["z_teacher_view"])
    assert (1 + cosine).tolist() == pytest.approx([1.8, 1.7071067811865475], rel=rel)
    hard = (parts["label"] + parts["label_view"]) / 2
    assert hard == pytest.approx(0.9746385622214882, rel=rel)
    assert parts["soft"] / 16 == pytest.approx(0.0216679628417219, rel=rel)
    # the edge tells its value without the weight c: what is left of the total has it
    weighted = (loss - hard - parts["soft"] / 2) / 8
    assert weighted == pytest.approx(0.0274229732606596, rel=10 * rel)
    assert loss == pytest.approx(1.3673660510405405, rel=rel)


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_definition(z: dict[str, Any], label: Any, *, tau: float, alpha: float, kd: float) -> float:
    """The loss of the authors' program, its two views one after the other."""
    a, b = z["teacher"], z["teacher_view"]
    c = 1 + (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    hard, soft = [], []
    for view, weight in (("", np.ones(len(label))), ("_view", c)):
        p, q = softmax(z[f"teacher{view}"] / tau), softmax(z[f"student{view}"] / tau)
        hard.append(-np.log(softmax(z[f"student{view}"]))[np.arange(len(label)), label].mean())
        soft.append((weight * (p * np.log(p / q)).sum(1)).mean())
    total: float = kd * (alpha * np.mean(hard) + (1 - alpha) * tau**2 * np.mean(soft))
    return total


def drawn(rows: int = 6, classes: int = 5) -> tuple[dict[str, Any], Any]:
    random = np.random.default_rng(7)
    return {n: random.normal(size=(rows, classes)) * 2 for n in VIEWS}, np.arange(rows) % classes


def tensors(z: dict[str, Any], label: Any) -> dict[str, Tensor]:
    return {**{f"z_{n}": torch.tensor(v) for n, v in z.items()}, "label": torch.tensor(label)}


@pytest.mark.parametrize(("tau", "alpha", "kd"), [(4.0, 0.5, 2.0), (3.0, 0.3, 1.5)])
def test_as_numpy_at_other_numbers(tau: float, alpha: float, kd: float) -> None:
    z, label = drawn()
    hard, soft = kd * alpha / 2, kd * (1 - alpha) / 2
    spec = spec_of(
        5,
        label={"weight": hard},
        label_view={"weight": hard},
        soft={"weight": soft, "tau": tau},
        soft_view={"tau": tau},
    )
    spec["signals"]["half_c"] |= {"scale": soft, "shift": soft}
    expected = by_definition(z, label, tau=tau, alpha=alpha, kd=kd)
    assert step_of(spec)(**tensors(z, label)).loss.item() == pytest.approx(expected, rel=1e-8)


def test_the_weights_of_the_extended_study() -> None:
    z, label = drawn()
    weights = {"label": 0.7, "label_view": 1.1, "soft": 0.4, "soft_view": 1.3}
    spec = spec_of(5, **{name: {"weight": w / 2} for name, w in weights.items()})
    spec["signals"] = {}
    out = step_of(spec)(**tensors(z, label))
    expected = sum(w / 2 * out.losses[name].item() for name, w in weights.items())
    assert out.loss.item() == pytest.approx(expected, rel=1e-12)
    plain = dict.fromkeys(weights, 0.0) | {"soft_view": 1.0}
    p, q = softmax(z["teacher_view"] / 4), softmax(z["student_view"] / 4)
    spec = spec_of(5, **{name: {"weight": w} for name, w in plain.items()})
    spec["signals"] = {}
    expected = 16 * (p * np.log(p / q)).sum(1).mean()
    assert step_of(spec)(**tensors(z, label)).loss.item() == pytest.approx(expected, rel=1e-8)


def test_plain_distillation_has_the_scale_of_the_method() -> None:
    """Of two equal views that weigh alike the method's loss is that of one: CE + 16 KL."""
    z, label = drawn()
    z |= {f"{side}_view": z[side] for side in ("student", "teacher")}
    both = spec_of(5, soft_view={"weight": 0.5})
    del both["signals"]
    plain = spec_of(5)
    plain["losses"] = {
        name: edge for name, edge in yaml.safe_load(PLAIN.read_text())["losses"].items() if edge
    }
    assert list(plain["losses"]) == ["label", "soft"]
    found = [step_of(spec)(**tensors(z, label)).loss.item() for spec in (plain, both)]
    p, q = softmax(z["teacher"] / 4), softmax(z["student"] / 4)
    hard = -np.log(softmax(z["student"]))[np.arange(6), label].mean()
    expected = hard + 16 * (p * np.log(p / q)).sum(1).mean()
    assert found == pytest.approx([expected, expected], rel=1e-8)


def test_views_that_agree_count_twice_and_views_across_once() -> None:
    step, batch = step_of(spec_of(3)), golden()
    batch["z_teacher_view"] = batch["z_teacher"] * 3  # the same direction
    out = step(**batch)
    parts = out.losses
    hard = (parts["label"] + parts["label_view"] + parts["soft"]) / 2
    torch.testing.assert_close(out.loss, hard + parts["soft_view"])
    batch["z_teacher"] = torch.tensor([[1.0, -1, 0], [0, 1, -1]], dtype=torch.float64)
    batch["z_teacher_view"] = torch.tensor([[1.0, 1, 0], [5, 0, 0]], dtype=torch.float64)
    out = step(**batch)
    torch.testing.assert_close(out.loss, torch.stack(list(out.losses.values())).sum() / 2)


def test_no_gradient_but_the_students() -> None:
    spec, (z, label) = spec_of(5), drawn()
    spec["models"]["teacher"]["trainable"] = True  # and still no edge teaches it
    step, batch = step_of(spec), tensors(z, label)
    for view in ("z_student", "z_student_view"):
        batch[view].requires_grad_()
    step(**batch).loss.backward()
    assert step.models["teacher"].one.grad in (None, 0)
    cosine = step.signals["agreement"](of=batch["z_teacher"], to=batch["z_teacher_view"])
    hot = torch.nn.functional.one_hot(batch["label"], 5)
    for view, weight in (("", torch.ones(6)), ("_view", 1 + cosine)):
        s, t = batch[f"z_student{view}"].detach(), batch[f"z_teacher{view}"]
        pull = 4 * weight[:, None] * ((s / 4).softmax(1) - (t / 4).softmax(1))
        expected = (s.softmax(1) - hot + pull) / 12
        torch.testing.assert_close(batch[f"z_student{view}"].grad, expected, rtol=1e-8, atol=1e-10)


def test_the_teacher_and_the_student_alone_learn_of_one_view() -> None:
    spec = load_spec(PATH)
    teacher, alone = teacher_by_itself(spec, "teacher"), student_alone(spec)
    assert alone.data == spec.data  # the same batches, of which it reads a part
    assert teacher.data is not None
    assert not teacher.data.transforms
    assert set(teacher.batch) == {"image", "label"}
    assert set(alone.models) == {"student"}
    assert set(alone.losses) == {"label"}


def test_trains_a_few_steps(tmp_path: Path) -> None:
    small = ["data.limit=40", "data.batch_size=10", "models.teacher.source=cifar/resnet8"]
    found = run(PATH, out=tmp_path, steps=3, set=small)
    assert [r.steps for r in found.runs] == [3]
    assert (tmp_path / "student.safetensors").exists()
