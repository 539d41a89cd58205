from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.jensen_shannon import JensenShannon

LOGITS = True
VARIANTS: list[dict[str, Any]] = [{}, {"beta": 0.9, "tau": 4.0, "scale": False}]

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)


def loss_of(**keys: Any) -> JensenShannon:
    return JensenShannon(student="student.logits", teacher="teacher.logits", **keys)


def softmax(x: np.ndarray, tau: float = 1.0) -> Any:
    """Over the last dimension, apart from the code under test."""
    e = np.exp(x / tau)
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_against_numpy(value_of: Callable[..., Any], beta: float, tau: float) -> None:
    p, q = softmax(TEACHER.numpy(), tau), softmax(STUDENT.numpy(), tau)
    m = beta * p + (1 - beta) * q
    rows = (beta * p * np.log(p / m) + (1 - beta) * q * np.log(q / m)).sum(-1)
    value = value_of(loss_of(beta=beta, tau=tau), student=STUDENT, teacher=TEACHER)
    assert value.item() == pytest.approx(tau**2 * rows.mean(), rel=1e-10)


def test_symmetric_at_one_half(value_of: Callable[..., Any]) -> None:
    there = value_of(loss_of(), student=STUDENT, teacher=TEACHER)
    back = value_of(loss_of(), student=TEACHER, teacher=STUDENT)
    torch.testing.assert_close(there, back, rtol=1e-12, atol=0)
    assert 0 < there < np.log(2)


def test_divided_by_a_small_beta_it_is_forward_kl(value_of: Callable[..., Any]) -> None:
    p, q = softmax(TEACHER.numpy()), softmax(STUDENT.numpy())
    value = value_of(loss_of(beta=1e-6), student=STUDENT, teacher=TEACHER) / 1e-6
    assert value.item() == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-4)


def test_classes_that_one_side_masks_cost_a_finite_amount(value_of: Callable[..., Any]) -> None:
    masked = TEACHER.clone()
    masked[:, 2] = -float("inf")
    for sides in ({"student": STUDENT, "teacher": masked}, {"student": masked, "teacher": STUDENT}):
        assert 0 < value_of(loss_of(), **sides) < np.log(2)


def test_classes_that_both_mask_add_nothing(value_of: Callable[..., Any]) -> None:
    masked = TEACHER.clone()
    masked[:, 2] = -float("inf")
    assert value_of(loss_of(), student=masked, teacher=masked).item() == pytest.approx(0)
    few = value_of(loss_of(), student=STUDENT[:, :2], teacher=TEACHER[:, :2])
    student = STUDENT.clone()
    student[:, 2] = -float("inf")
    torch.testing.assert_close(value_of(loss_of(), student=student, teacher=masked), few)
    tail = torch.cat([torch.zeros(1, 2), torch.full((1, 1000), -110.0)], 1)
    assert value_of(loss_of(), student=tail, teacher=tail).item() == pytest.approx(0, abs=1e-6)
