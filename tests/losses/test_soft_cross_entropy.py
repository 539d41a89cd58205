from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdgraph.losses._closed import Logits
from kdgraph.losses.soft_cross_entropy import SoftCrossEntropy
from kdgraph.losses.soft_target import SoftTarget
from kdgraph.spec.shapes import ShapeMismatch

LOGITS = True
VARIANTS: list[dict[str, Any]] = [
    {},
    {"variant": "kl", "scale": "tau2", "reduction": "element"},
    {"scale": "tau"},
]

STUDENT = torch.tensor([[0.5, 0.2, -0.1]], dtype=torch.float64)
TEACHER = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)


def further(student: Tensor) -> dict[str, Tensor]:
    """A target that leaves the last class out, which the student may mask then."""
    dim = 1 if student.dim() >= 4 else -1
    random = torch.Generator().manual_seed(7)
    logits = torch.randn(student.shape, generator=random, dtype=torch.float64).to(student.dtype)
    if student.shape[dim] > 1:
        logits.movedim(dim, 0)[-1] = -float("inf")
    return {"target": logits.softmax(dim)}


def loss_of(**keys: Any) -> SoftCrossEntropy:
    return SoftCrossEntropy(student="student.logits", target="target", **keys)


def rows_of(student: np.ndarray, target: np.ndarray, tau: float) -> np.ndarray:
    z = student / tau
    log_p: np.ndarray = z - np.log(np.exp(z).sum(-1, keepdims=True))
    rows: np.ndarray = -(target * log_p).sum(-1)
    return rows


def test_known_numbers(value_of: Callable[..., Any]) -> None:
    hot = {"student": STUDENT, "target": (TEACHER / 2).softmax(1), "tau": 2.0}
    assert value_of(loss_of(), **hot).item() == pytest.approx(1.0580747715237306, rel=1e-12)
    kl = value_of(loss_of(variant="kl"), **hot)
    assert kl.item() == pytest.approx(0.0378834347968993, rel=1e-12)
    cold = value_of(loss_of(), student=STUDENT, target=(TEACHER / 4).softmax(1))
    assert 3 * cold.item() == pytest.approx(3.2367121446010643, rel=1e-12)


@pytest.mark.parametrize("tau", [1.0, 3.0])
@pytest.mark.parametrize("negative", [False, True])
def test_against_numpy(value_of: Callable[..., Any], tau: float, negative: bool) -> None:
    random = np.random.default_rng(5)
    student = random.normal(size=(4, 6))
    target = random.dirichlet(np.ones(6), size=4)
    if negative:
        target = 1 / 6 + 3 * (target - 1 / 6)
        assert target.min() < 0
    rows = rows_of(student, target, tau)
    tensors = {"student": torch.from_numpy(student), "target": torch.from_numpy(target)}
    for scale, factor in {"none": 1, "tau": tau, "tau2": tau**2}.items():
        for reduction, part in {
            "mean": 1 / 4,
            "sum": 1.0,
            "batchmean": 1 / 4,
            "element": 1 / 24,
        }.items():
            value = value_of(loss_of(scale=scale, reduction=reduction), **tensors, tau=tau)
            assert value.item() == pytest.approx(factor * part * rows.sum(), rel=1e-12)


def test_divergence_is_less_by_the_entropy_and_has_the_same_gradient(
    value_of: Callable[..., Any],
) -> None:
    target = torch.tensor([[0.7, 0.3, 0.0]], dtype=torch.float64)
    found = {}
    for variant in ("cross_entropy", "kl"):
        student = STUDENT.clone().requires_grad_()
        value = value_of(loss_of(variant=variant), student=student, target=target)
        found[variant] = (value.item(), *torch.autograd.grad(value, student))
    entropy = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3))
    assert found["cross_entropy"][0] - found["kl"][0] == pytest.approx(entropy, rel=1e-12)
    torch.testing.assert_close(found["cross_entropy"][1], found["kl"][1])


def test_a_temperature_per_sample_and_per_position(value_of: Callable[..., Any]) -> None:
    random = np.random.default_rng(6)
    student, target = random.normal(size=(2, 3, 5)), random.dirichlet(np.ones(5), size=(2, 3))
    rows = np.stack([t**2 * rows_of(student[i], target[i], t) for i, t in enumerate((2.0, 5.0))])
    value = value_of(
        loss_of(scale="tau2"), student=torch.from_numpy(student), target=torch.from_numpy(target),
        tau=torch.tensor([2.0, 5.0]),
    )  # fmt: skip
    assert value.item() == pytest.approx(rows.mean(), rel=1e-12)


def test_the_same_as_soft_target_where_the_target_is_tempered(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 4, 7, dtype=torch.float64)
    soft = SoftTarget(student="student.logits", teacher="teacher.logits", tau=4.0)
    value = value_of(
        loss_of(variant="kl", scale="tau2"), student=student, target=(teacher / 4).softmax(1),
        tau=4.0,
    )  # fmt: skip
    torch.testing.assert_close(value, value_of(soft, student=student, teacher=teacher))


def test_no_gradient_into_the_target(value_of: Callable[..., Any]) -> None:
    for keys in VARIANTS:
        student = STUDENT.clone().requires_grad_()
        target = TEACHER.softmax(1).requires_grad_()
        value_of(loss_of(**keys), student=student, target=target).backward()
        assert student.grad is not None
        assert target.grad is None


def test_class_numbers_are_for_another_loss() -> None:
    with pytest.raises(ShapeMismatch, match="use: cross_entropy"):
        loss_of().shapes(student=(4, 3), target=(4,))
    with pytest.raises(ShapeMismatch, match="shape of the student logits"):
        loss_of().shapes(student=(4, 3), target=(4, 5))


def test_divergence_keeps_its_digits_at_a_high_temperature(value_of: Callable[..., Any]) -> None:
    """In float32, by both forms of the loss, where rounding is alike in all rows and adds up."""
    random = torch.Generator().manual_seed(3)
    z_s, hot = torch.randn(8, 10, generator=random) / 10, torch.full((8, 10), 0.1)
    hot[:, 4] = 0.11
    target = hot / hot.sum(1, keepdim=True)
    loss = loss_of(variant="kl", scale="tau2")
    exact = value_of(loss, student=z_s.double(), target=target.double(), tau=20.0)
    plain = value_of(loss, student=z_s, target=target, tau=20.0)
    rows, _ = loss.closed_form(student=Logits(z_s), target=target, tau=20.0)
    for value in (plain, rows.mean()):
        assert value.item() == pytest.approx(exact.item(), rel=2e-4)
