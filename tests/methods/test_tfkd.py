"""Tf-KD: self-training and the virtual teacher, each variant on numbers that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.train import run

SPECS = Path(__file__).parents[2] / "specs" / "methods"

OFFSET = "models.student.offset"
LABEL = {"use": "cross_entropy", "student": "student.logits", "target": "label"}
SOFT = {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"}
VIRTUAL = {"use": "soft_cross_entropy", "student": "student.logits", "target": "virtual"}

STUDENT = [[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]]
TEACHER = [[1.0, 1.5, -0.5], [0.0, 2.0, -1.0]]


class Given(nn.Module):
    """Hands logits on, plus an offset for each class that can be trained."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(classes, dtype=torch.float64))

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.offset


def compiled(
    soft: dict[str, Any], alpha: float, classes: int = 3, **target: Any
) -> kdgraph.DistillModule:
    """``(1 - alpha) label + weight soft``; ``target`` has the keys of a virtual teacher."""
    logits = {"shape": ["B", classes], "dtype": "float64"}
    label = {"shape": ["B"], "dtype": "int64", "classes": classes}
    models = {"student": {"input": "z_s", "taps": {"logits": "output"}}}
    batch = {"z_s": logits, "label": label}
    signals = {}
    if target:
        keys = {"label": "label", "like": "student.logits", **target}
        signals["virtual"] = {"use": "virtual_teacher", **keys}
        if "mask" in soft:
            signals["known"] = {"use": "labelled", "of": "label"}
    else:
        batch["z_t"] = logits
        models["teacher"] = {"input": "z_t", "taps": {"logits": "output"}}
    spec = {
        "kdgraph": 1, "name": "tfkd", "batch": batch, "models": models, "signals": signals,
        "losses": {"label": {**LABEL, "weight": 1 - alpha}, "soft": soft},
    }  # fmt: skip
    return kdgraph.compile(spec, models={name: Given(classes) for name in models})


def batch(step: kdgraph.DistillModule) -> dict[str, Tensor]:
    given = {
        "z_s": torch.tensor(STUDENT, dtype=torch.float64),
        "z_t": torch.tensor(TEACHER, dtype=torch.float64),
        "label": torch.tensor([0, 1]),
    }
    return {name: given[name] for name in step.spec.batch}


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ({"scale": False, "weight": 0.9}, 0.068507388578),
        ({"weight": 0.9}, 0.605035240625),
        ({"reduction": "element", "weight": 0.9}, 0.246453551704),
        ({"reduction": "element", "weight": 0.9 * 3}, 0.605035240625),
    ],
    ids=["paper", "scaled", "official_cifar", "official_cifar with m = K"],
)
def test_self_training_variants(keys: dict[str, Any], value: float) -> None:
    step = compiled({**SOFT, "tau": 20, **keys}, alpha=0.9)
    assert step(**batch(step)).loss.item() == pytest.approx(value, abs=1e-11)


@pytest.mark.parametrize(
    ("keys", "variant", "value"),
    [
        ({"tau": 20, "weight": 0.1}, "softmax_of_probs", 0.604523668683),
        ({"tau": 20, "weight": 0.1}, "power_renorm", 0.605032258704),
        ({"weight": 0.1}, "softmax_of_probs", 0.635551896458),
        ({"reduction": "element", "weight": 0.1 * 100}, "softmax_of_probs", 1.640715407169),
    ],
    ids=["paper", "paper, tempered", "student at 1", "official_cifar"],
)
def test_virtual_teacher_variants(keys: dict[str, Any], variant: str, value: float) -> None:
    soft = {**VIRTUAL, "variant": "kl", **keys}
    step = compiled(soft, alpha=0.1, correct=0.99, tau=20, variant=variant)
    assert step(**batch(step)).loss.item() == pytest.approx(value, abs=1e-11)


def test_label_smoothing_as_a_virtual_teacher() -> None:
    """The authors' baseline has (1 - a) at the label, torch (1 - a) + a / K."""
    theirs = compiled({**VIRTUAL, "weight": 1}, alpha=1.0, correct=0.9, tau=1)
    assert theirs(**batch(theirs)).loss.item() == pytest.approx(0.784127072443, abs=1e-11)
    torchs = compiled({**LABEL, "smoothing": 0.1}, alpha=1.0)
    assert torchs(**batch(torchs)).loss.item() == pytest.approx(0.746627072443, abs=1e-11)
    uniform = {**VIRTUAL, "variant": "kl", "weight": 0.1}
    written = compiled(uniform, alpha=0.1, correct=1 / 3, tau=1)
    assert written(**batch(written)).loss.item() == pytest.approx(0.636765843576, abs=1e-11)


def test_high_temperature_compares_centred_logits() -> None:
    step = compiled({**SOFT, "tau": 1e4, "weight": 1}, alpha=1.0)
    assert step(**batch(step)).losses["soft"].item() == pytest.approx(0.587777777778, abs=1e-4)


@pytest.mark.parametrize("multiplier", [1.0, 50.0])
def test_the_mean_over_elements_is_a_smaller_weight(multiplier: float) -> None:
    found = []
    for keys in ({"reduction": "element", "weight": multiplier}, {"weight": multiplier / 7}):
        step = compiled({**SOFT, "tau": 6, **keys}, alpha=0.5, classes=7)
        random = torch.Generator().manual_seed(2)
        z = torch.randn(2, 5, 7, generator=random, dtype=torch.float64)
        out = step(z_s=z[0], z_t=z[1], label=torch.arange(5))
        out.loss.backward()
        found.append((out.loss.detach(), step.get_parameter(OFFSET).grad))
    torch.testing.assert_close(*found)


def test_against_numpy_on_other_numbers() -> None:
    random = np.random.default_rng(4)
    z, label = random.normal(size=(6, 5)) * 2, random.integers(5, size=6)

    def log_softmax(x: np.ndarray) -> np.ndarray:
        found: np.ndarray = x - np.log(np.exp(x).sum(1, keepdims=True))
        return found

    p = np.full((6, 5), 0.05 / 4)
    p[np.arange(6), label] = 0.95
    hot = log_softmax(np.log(p) / 10)
    kl = (np.exp(hot) * (hot - log_softmax(z / 10))).sum(1).mean()
    hard = -log_softmax(z)[np.arange(6), label].mean()
    soft = {**VIRTUAL, "variant": "kl", "tau": 10, "scale": "tau2", "weight": 0.3}
    step = compiled(soft, alpha=0.3, classes=5, correct=0.95, tau=10)
    out = step(z_s=torch.from_numpy(z), label=torch.from_numpy(label))
    assert out.loss.item() == pytest.approx(0.7 * hard + 0.3 * 100 * kl, rel=1e-10)


def test_only_the_student_learns() -> None:
    step = compiled({**SOFT, "tau": 4, "weight": 0.9}, alpha=0.9)
    step(**batch(step)).loss.backward()
    assert [name for name, _ in step.named_parameters()] == [OFFSET]
    grad = step.get_parameter(OFFSET).grad
    assert grad is not None
    assert grad.any()


def test_an_unlabelled_sample_moves_nothing() -> None:
    step = compiled({**VIRTUAL, "mask": "known", "tau": 20, "weight": 0.1}, alpha=0.1, tau=20)
    given = batch(step)
    more = {
        "z_s": torch.cat([given["z_s"], torch.full((1, 3), 7.0, dtype=torch.float64)]),
        "label": torch.cat([given["label"], torch.tensor([-100])]),
    }
    assert step(**more).loss.item() == pytest.approx(step(**given).loss.item(), rel=1e-14)


@pytest.mark.parametrize("name", ["tfkd_self", "tfkd_reg"])
def test_it_trains(name: str, tmp_path: Path) -> None:
    small = ["data.limit=100", "train.epochs=1"]
    small += ["train.teacher.epochs=1"] if name == "tfkd_self" else []
    result = run(SPECS / f"{name}.yaml", out=tmp_path, steps=2, set=small, device="cpu")
    assert result.runs[0].steps == 2
    assert len(result.teachers) == (name == "tfkd_self")
    assert 0 <= result.runs[0].metrics["accuracy"] <= 1
