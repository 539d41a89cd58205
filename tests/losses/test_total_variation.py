from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.total_variation import TotalVariation

LOGITS = True
VARIANTS: list[dict[str, Any]] = [{}, {"tau": 3.0}]

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)


def loss_of(**keys: Any) -> TotalVariation:
    return TotalVariation(student="student.logits", teacher="teacher.logits", **keys)


def softmax(x: np.ndarray, tau: float = 1.0) -> Any:
    """Over the last dimension, apart from the code under test."""
    e = np.exp(x / tau)
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_against_numpy(value_of: Callable[..., Any], tau: float) -> None:
    p, q = softmax(TEACHER.numpy(), tau), softmax(STUDENT.numpy(), tau)
    value = value_of(loss_of(tau=tau), student=STUDENT, teacher=TEACHER)
    assert value.item() == pytest.approx(np.abs(p - q).sum(-1).mean() / 2, rel=1e-12)


def test_it_is_one_where_nothing_is_shared(value_of: Callable[..., Any]) -> None:
    student = torch.tensor([[80.0, -80.0]])
    assert value_of(loss_of(), student=student, teacher=-student) == 1
