from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.skew_kl import SkewKL

LOGITS = True
VARIANTS: list[dict[str, Any]] = [{}, {"variant": "reverse", "alpha": 0.3, "tau": 2.0}]

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)


def loss_of(**keys: Any) -> SkewKL:
    return SkewKL(student="student.logits", teacher="teacher.logits", **keys)


def softmax(x: np.ndarray, tau: float = 1.0) -> Any:
    """Over the last dimension, apart from the code under test."""
    e = np.exp(x / tau)
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("alpha", [0.1, 0.5])
@pytest.mark.parametrize("variant", ["forward", "reverse"])
def test_against_numpy(value_of: Callable[..., Any], alpha: float, variant: str) -> None:
    p, q = softmax(TEACHER.numpy(), 2.0), softmax(STUDENT.numpy(), 2.0)
    if variant == "reverse":
        p, q = q, p
    rows = (p * np.log(p / (alpha * p + (1 - alpha) * q))).sum(-1)
    loss = loss_of(alpha=alpha, variant=variant, tau=2.0)
    value = value_of(loss, student=STUDENT, teacher=TEACHER)
    assert value.item() == pytest.approx(4 * rows.mean(), rel=1e-10)
    plain = value_of(
        loss_of(alpha=alpha, variant=variant, tau=2.0, scale=False),
        student=STUDENT, teacher=TEACHER,
    )  # fmt: skip
    assert plain.item() == pytest.approx(rows.mean(), rel=1e-10)


def test_a_small_share_is_plain_kl(value_of: Callable[..., Any]) -> None:
    p, q = softmax(TEACHER.numpy()), softmax(STUDENT.numpy())
    value = value_of(loss_of(alpha=1e-9), student=STUDENT, teacher=TEACHER)
    assert value.item() == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-6)


def test_a_sure_and_wrong_student_costs_at_most_the_logarithm_of_the_share(
    value_of: Callable[..., Any],
) -> None:
    student = torch.tensor([[100.0, -100.0]])
    value = value_of(loss_of(alpha=0.1), student=student, teacher=-student)
    assert value.item() == pytest.approx(-np.log(0.1), rel=1e-6)


def test_classes_that_both_mask_add_nothing(value_of: Callable[..., Any]) -> None:
    student, teacher = STUDENT.clone(), TEACHER.clone()
    student[:, 2] = teacher[:, 2] = -float("inf")
    few = value_of(loss_of(), student=STUDENT[:, :2], teacher=TEACHER[:, :2])
    torch.testing.assert_close(value_of(loss_of(), student=student, teacher=teacher), few)
