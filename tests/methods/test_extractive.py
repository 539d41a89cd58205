"""Extractive distillation: temperatures apart, and targets by operators, on known numbers."""

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
SOFT = {"use": "soft_cross_entropy", "student": "student.logits", "target": "target"}
STUDENT = torch.tensor([[0.5, 0.2, -0.1]], dtype=torch.float64)
TEACHER = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)


class Given(nn.Module):
    """Hands logits on, plus an offset for each class that can be trained."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(classes, dtype=torch.float64))

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.offset


def compiled(
    soft: dict[str, Any], signals: dict[str, Any], *, label: float = 0.0, classes: int = 3
) -> kdgraph.DistillModule:
    logits = {"shape": ["B", classes], "dtype": "float64"}
    spec = {
        "kdgraph": 1,
        "name": "extractive",
        "batch": {
            "z_s": logits,
            "z_t": logits,
            "label": {"shape": ["B"], "dtype": "int64", "classes": classes},
        },
        "models": {
            "student": {"input": "z_s", "taps": {"logits": "output"}},
            "teacher": {"input": "z_t", "taps": {"logits": "output"}},
        },
        "signals": signals,
        "losses": {
            "label": {
                "use": "cross_entropy",
                "student": "student.logits",
                "target": "label",
                "weight": label,
            },
            "soft": soft,
        },
    }
    return kdgraph.compile(spec, models={"student": Given(classes), "teacher": Given(classes)})


def extract(**keys: Any) -> dict[str, Any]:
    return {"target": {"use": "extract", "of": "teacher.logits", **keys}}


def found(
    step: kdgraph.DistillModule, student: Tensor = STUDENT, teacher: Tensor = TEACHER
) -> tuple[float, Tensor]:
    """The loss, and its gradient, which is that of one sample's logits."""
    loss = step(z_s=student, z_t=teacher, label=torch.zeros(len(student), dtype=torch.int64)).loss
    (grad,) = torch.autograd.grad(loss, step.get_parameter(OFFSET))
    return loss.item(), grad


def test_temperatures_and_weight_apart() -> None:
    soft = {**SOFT, "tau": 1, "scale": "tau", "weight": 3}
    loss, grad = found(compiled(soft, extract(tau=4, beta=0)))
    assert loss == pytest.approx(3.2367121446010643, rel=1e-10)
    want = torch.tensor([0.0525685959, -0.00882639575, -0.04374220015], dtype=torch.float64)
    torch.testing.assert_close(grad, want, atol=1e-10, rtol=0)


def test_ordinary_distillation_is_equal_temperatures_and_their_product_with_it() -> None:
    kd = {
        "use": "soft_target", "student": "student.logits", "teacher": "teacher.logits", "tau": 4,
    }  # fmt: skip
    loss, grad = found(compiled(kd, {}))
    assert loss == pytest.approx(0.1602436863676873, rel=1e-10)
    want = torch.tensor([-0.242427864501, 0.024853501151, 0.21757436335], dtype=torch.float64)
    torch.testing.assert_close(grad, want, atol=1e-11, rtol=0)
    parts = {**SOFT, "tau": 4, "scale": "tau", "weight": 4}  # w = lambda tau
    torch.testing.assert_close(found(compiled(parts, extract(tau=4, beta=0)))[1], grad)


def test_without_the_pedestal() -> None:
    loss, _ = found(compiled(SOFT, extract(tau=4)))
    assert loss == pytest.approx(0.9197414726322096, rel=1e-10)


@pytest.mark.parametrize("tau_s", [1.0, 2.5])
@pytest.mark.parametrize("kappa", [1.0, 6.0])
def test_mean_residual_against_numpy(tau_s: float, kappa: float) -> None:
    random = np.random.default_rng(8)
    z_s, z_t = random.normal(size=(2, 1, 6))

    def softmax(z: np.ndarray) -> np.ndarray:
        p: np.ndarray = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return p

    q, p = 1 / 6 + kappa * (softmax(z_t / 3) - 1 / 6), softmax(z_s / tau_s)
    assert (q.min() < 0) == (kappa > 1)
    soft = {**SOFT, "tau": tau_s, "scale": "tau", "weight": 2}
    signals = extract(tau=3, variant="mean_residual", kappa=kappa)
    step = compiled(soft, signals, classes=6)
    loss, grad = found(step, torch.from_numpy(z_s), torch.from_numpy(z_t))
    assert loss == pytest.approx(-2 * tau_s * (q * np.log(p)).sum(), rel=1e-10)
    np.testing.assert_allclose(grad.numpy(), 2 * (p - q)[0], rtol=1e-9)  # w (p - q), at any tau


def test_a_chain_with_a_temperature_for_each_sample() -> None:
    heat = {"heat": {"use": "entropy_match", "of": "teacher.logits", "entropy": 0.9}}
    step = compiled(SOFT, heat | extract(tau="heat"))
    alone = compiled(SOFT, extract(tau=1.6683307480569447))
    torch.testing.assert_close(found(step), found(alone), rtol=1e-9, atol=0)
    # a teacher that is ten times as sure gives the same target, beside any other sample
    both = found(step, STUDENT.repeat(2, 1), torch.cat([TEACHER, 10 * TEACHER]))
    torch.testing.assert_close(both, found(step), rtol=1e-9, atol=0)


def test_very_low_logits_and_a_uniform_teacher() -> None:
    step = compiled(SOFT, extract(tau=4), label=1.0)
    for teacher in ([[3.0, 1.0, -1e4]], [[0.7, 0.7, 0.7]]):
        loss, grad = found(step, teacher=torch.tensor(teacher, dtype=torch.float64))
        assert np.isfinite(loss)
        assert grad.isfinite().all()
    uniform = found(step, teacher=torch.full((1, 3), 0.7, dtype=torch.float64))[1]
    mean = compiled({"use": "cross_entropy", "student": "student.logits", "target": "label",
                     "smoothing": 1.0}, {}, label=1.0)  # fmt: skip
    torch.testing.assert_close(uniform, found(mean)[1])


def test_nothing_reaches_the_teacher() -> None:
    step = compiled(SOFT, extract(tau=4), label=1.0)
    z_t = TEACHER.clone().requires_grad_()
    step(z_s=STUDENT, z_t=z_t, label=torch.zeros(1, dtype=torch.int64)).loss.backward()
    assert z_t.grad is None or not z_t.grad.any()
    assert [name for name, _ in step.named_parameters()] == [OFFSET]


def test_it_trains(tmp_path: Path) -> None:
    small = ["data.limit=100", "train.teacher.epochs=1", "models.teacher.source=cifar/resnet8"]
    result = run(SPECS / "extractive.yaml", out=tmp_path, steps=2, set=small, device="cpu")
    assert result.runs[0].steps == 2
    assert 0 <= result.runs[0].metrics["accuracy"] <= 1
