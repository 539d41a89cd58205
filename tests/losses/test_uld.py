from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.uld import ULD

LOGITS = True

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)


def loss_of(**keys: Any) -> ULD:
    return ULD(student="student.logits", teacher="teacher.logits", **keys)


def softmax(x: np.ndarray, tau: float = 1.0) -> Any:
    """Over the last dimension, apart from the code under test."""
    e = np.exp(x / tau)
    return e / e.sum(-1, keepdims=True)


def test_against_numpy(value_of: Callable[..., Any]) -> None:
    teacher = torch.tensor([[1, 1.5, -0.5, 0, 3], [0, 2, -1, 0.5, 0.5]], dtype=torch.float64)
    p, q = np.sort(softmax(teacher.numpy())), np.sort(softmax(STUDENT.numpy()))
    q = np.pad(q, ((0, 0), (2, 0)))
    value = value_of(loss_of(), student=STUDENT, teacher=teacher)
    assert value.item() == pytest.approx(np.abs(p - q).sum(-1).mean(), rel=1e-12)
    back = value_of(loss_of(), student=teacher, teacher=STUDENT)
    assert back.item() == pytest.approx(value.item(), rel=1e-12)


def test_the_order_of_classes_does_not_count(value_of: Callable[..., Any]) -> None:
    value = value_of(loss_of(), student=STUDENT, teacher=STUDENT[:, [2, 0, 1]])
    assert value.item() == pytest.approx(0, abs=1e-15)
