"""Extractive distillation: temperatures apart, and targets by operators, on known numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kdgraph
from kdgraph.train import run

SPECS = Path(__file__).parents[2] / "specs" / "methods"

Shipped = Callable[..., kdgraph.DistillModule]  # conftest.py

OFFSET = "models.student.offset"
STUDENT, TEACHER = [[0.5, 0.2, -0.1]], [[2.0, 1.0, 0.0]]
LABEL = 0.8283901699061244  # cross-entropy of the student with class 0
TEMPERATURES_ALONE = ["losses.label.weight=0", "signals.target.beta=0"]
DTYPES = pytest.mark.parametrize(
    ("dtype", "rel"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)


def found(
    step: kdgraph.DistillModule, student: Any = STUDENT, teacher: Any = TEACHER
) -> tuple[float, Tensor]:
    """The loss, and its gradient, which is that of one sample's logits."""
    offset = step.get_parameter(OFFSET)
    z_s, z_t = (torch.as_tensor(z, dtype=offset.dtype) for z in (student, teacher))
    loss = step(z_s=z_s, z_t=z_t, label=torch.zeros(len(z_s), dtype=torch.int64)).loss
    (grad,) = torch.autograd.grad(loss, offset)
    return loss.item(), grad


def check_gradient(grad: Tensor, want: list[float], rel: float) -> None:
    """``want`` is given to eleven decimals."""
    want_ = torch.tensor(want, dtype=grad.dtype)
    torch.testing.assert_close(grad, want_, atol=2e-11 + rel * 0.2, rtol=0)


@DTYPES
def test_as_shipped(shipped: Shipped, dtype: torch.dtype, rel: float) -> None:
    """Without the pedestal, 2 CE(q, p) beside the label."""
    loss, _ = found(shipped("extractive", dtype=dtype))
    assert loss == pytest.approx(LABEL + 2 * 0.9197414726322096, rel=rel)


@DTYPES
def test_temperatures_and_weight_apart(shipped: Shipped, dtype: torch.dtype, rel: float) -> None:
    changes = [*TEMPERATURES_ALONE, "losses.soft.weight=3"]
    loss, grad = found(shipped("extractive", *changes, dtype=dtype))
    assert loss == pytest.approx(3.2367121446010643, rel=rel)
    check_gradient(grad, [0.0525685959, -0.00882639575, -0.04374220015], rel)


@DTYPES
def test_ordinary_distillation_is_equal_temperatures(
    shipped: Shipped, dtype: torch.dtype, rel: float
) -> None:
    """With ``w = lambda tau``; 16 KL is the cross-entropy less the teacher's entropy."""
    equal = [*TEMPERATURES_ALONE, "losses.soft.tau=4", "losses.soft.weight=4"]
    want = [-0.242427864501, 0.024853501151, 0.21757436335]
    check_gradient(found(shipped("extractive", *equal, dtype=dtype))[1], want, rel)
    loss, grad = found(shipped("extractive", *equal, "losses.soft.variant=kl", dtype=dtype))
    assert loss == pytest.approx(0.1602436863676873, rel=rel)
    check_gradient(grad, want, rel)


def test_the_teachers_entropy_at_its_temperature(shipped: Shipped) -> None:
    """H / ln 3 at tau 4: matched to that entropy, each sample gets this temperature."""
    heat = ["signals.heat={use: entropy_match, of: teacher.logits, entropy: 0.9813285913248724}"]
    matched = shipped("extractive", *heat, "signals.target.tau=heat")
    torch.testing.assert_close(found(matched), found(shipped("extractive")), rtol=1e-9, atol=0)
    plain = [*TEMPERATURES_ALONE, "losses.soft.weight=1"]
    cross = found(shipped("extractive", *plain))[0]
    divergence = found(shipped("extractive", *plain, "losses.soft.variant=kl"))[0]
    assert (cross - divergence) / np.log(3) == pytest.approx(0.9813285913248724, rel=1e-10)


def test_a_very_high_temperature_no_longer_flattens_the_target(shipped: Shipped) -> None:
    """The target goes to (2/3, 1/3, 0), the teacher's logits from their least one on."""
    loss, _ = found(shipped("extractive", "signals.target.tau=1e9"))
    z = np.array(STUDENT[0])
    log_p = z - np.log(np.exp(z).sum())
    assert loss == pytest.approx(LABEL - 2 * (2 * log_p[0] + log_p[1]) / 3, rel=1e-8)


@pytest.mark.parametrize("tau_s", [1.0, 2.5])
@pytest.mark.parametrize("kappa", [1.0, 6.0])
def test_mean_residual_against_numpy(shipped: Shipped, tau_s: float, kappa: float) -> None:
    random = np.random.default_rng(8)
    z_s, z_t = random.normal(size=(2, 1, 6))

    def softmax(z: np.ndarray) -> np.ndarray:
        p: np.ndarray = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return p

    q, p = 1 / 6 + kappa * (softmax(z_t / 3) - 1 / 6), softmax(z_s / tau_s)
    assert (q.min() < 0) == (kappa > 1)
    target = ["variant=mean_residual", f"kappa={kappa}", "beta=null", "tau=3"]
    changes = ["losses.label.weight=0", *(f"signals.target.{key}" for key in target)]
    step = shipped("extractive", *changes, f"losses.soft.tau={tau_s}", classes=6)
    loss, grad = found(step, z_s, z_t)
    assert loss == pytest.approx(-2 * tau_s * (q * np.log(p)).sum(), rel=1e-10)
    np.testing.assert_allclose(grad.numpy(), 2 * (p - q)[0], rtol=1e-9)  # w (p - q), at any tau


def test_a_chain_with_a_temperature_for_each_sample(shipped: Shipped) -> None:
    heat = ["signals.heat={use: entropy_match, of: teacher.logits, entropy: 0.9}"]
    step = shipped("extractive", *heat, "signals.target.tau=heat")
    alone = shipped("extractive", "signals.target.tau=1.6683307480569447")
    torch.testing.assert_close(found(step), found(alone), rtol=1e-9, atol=0)
    # a teacher that is ten times as sure gives the same target, beside any other sample
    surer = [TEACHER[0], [10 * z for z in TEACHER[0]]]
    torch.testing.assert_close(found(step, STUDENT * 2, surer), found(step), rtol=1e-9, atol=0)


def test_very_low_logits_and_a_uniform_teacher(shipped: Shipped) -> None:
    step = shipped("extractive")
    for teacher in ([[3.0, 1.0, -1e4]], [[0.7, 0.7, 0.7]]):
        loss, grad = found(step, teacher=teacher)
        assert np.isfinite(loss)
        assert grad.isfinite().all()
    uniform = found(shipped("extractive", "losses.label.weight=0"), teacher=[[0.7] * 3])[1]
    smooth = ["losses.soft.weight=0", "losses.label.smoothing=1", "losses.label.weight=2"]
    torch.testing.assert_close(uniform, found(shipped("extractive", *smooth))[1])


def test_only_the_student_learns(shipped: Shipped) -> None:
    """A teacher that is trained as well gets nothing from the target, which is a constant."""
    step = shipped("extractive", "models.teacher.trainable=true")
    z_s, z_t = (torch.tensor(z, dtype=torch.float64) for z in (STUDENT, TEACHER))
    step(z_s=z_s, z_t=z_t, label=torch.zeros(1, dtype=torch.int64)).loss.backward()
    assert step.get_parameter(OFFSET).grad is not None
    assert step.get_parameter("models.teacher.offset").grad is None


def test_it_trains(tmp_path: Path) -> None:
    small = ["data.limit=100", "train.teacher.epochs=1", "models.teacher.source=cifar/resnet8"]
    result = run(SPECS / "extractive.yaml", out=tmp_path, steps=2, set=small, device="cpu")
    assert result.runs[0].steps == 2
    assert 0 <= result.runs[0].metrics["accuracy"] <= 1
