from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.hard_label import HardLabel

LOGITS = True
ZERO_AT_EQUAL = False
VARIANTS: list[dict[str, Any]] = [{}, {"smoothing": 0.1}]

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)


def loss_of(**keys: Any) -> HardLabel:
    return HardLabel(student="student.logits", teacher="teacher.logits", **keys)


def softmax(x: np.ndarray, tau: float = 1.0) -> Any:
    """Over the last dimension, apart from the code under test."""
    e = np.exp(x / tau)
    return e / e.sum(-1, keepdims=True)


def test_against_numpy(value_of: Callable[..., Any]) -> None:
    log_q = np.log(softmax(STUDENT.numpy()))
    hard = -log_q[np.arange(2), TEACHER.numpy().argmax(-1)]
    value = value_of(loss_of(), student=STUDENT, teacher=TEACHER)
    assert value.item() == pytest.approx(hard.mean(), rel=1e-12)
    smooth = value_of(loss_of(smoothing=0.1), student=STUDENT, teacher=TEACHER)
    assert smooth.item() == pytest.approx((0.9 * hard - 0.1 * log_q.mean(-1)).mean(), rel=1e-12)


def test_only_the_order_of_the_teacher_counts(value_of: Callable[..., Any]) -> None:
    one, other = (value_of(loss_of(), student=STUDENT, teacher=x) for x in (TEACHER, 100 * TEACHER))
    assert one == other


def test_pixels(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 2, 5, 3, 4).double()
    flat = [x.movedim(1, -1).flatten(0, 2) for x in (student, teacher)]
    value = value_of(loss_of(), student=student, teacher=teacher)
    expected = value_of(loss_of(), student=flat[0], teacher=flat[1])
    torch.testing.assert_close(value, expected)


def test_smoothing_alone_asks_for_no_impossible_label(value_of: Callable[..., Any]) -> None:
    loss = HardLabel(student="s.z", teacher="some.teacher", smoothing=1.0)
    student = torch.tensor([[-float("inf"), 1.0, 0.0]])
    assert value_of(loss, student=student, teacher=torch.tensor([[1.0, 0, 0]])).isfinite()
