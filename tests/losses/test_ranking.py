from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.ranking import Ranking

LOGITS = True
ZERO_AT_EQUAL = False
VARIANTS: list[dict[str, Any]] = [{}, {"variant": "hinge", "margin": 0.5}]

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)


def loss_of(**keys: Any) -> Ranking:
    return Ranking(student="student.logits", teacher="teacher.logits", **keys)


def softmax(x: np.ndarray, tau: float = 1.0) -> Any:
    """Over the last dimension, apart from the code under test."""
    e = np.exp(x / tau)
    return e / e.sum(-1, keepdims=True)


def by_hand(variant: str, margin: float) -> Any:
    rows = []
    for z_s, z_t in zip(STUDENT.numpy(), TEACHER.numpy(), strict=True):
        q, pairs = softmax(z_s), []
        for k in range(3):
            for other in range(3):
                if z_t[k] > z_t[other] and variant == "hinge":
                    pairs.append(max(0.0, margin - (q[k] - q[other])))
                elif z_t[k] > z_t[other]:
                    pairs.append(np.log1p(np.exp(-(z_s[k] - z_s[other]))))
        rows.append(np.mean(pairs))
    return np.mean(rows)


@pytest.mark.parametrize("variant", ["logistic", "hinge"])
def test_against_numpy(value_of: Callable[..., Any], variant: str) -> None:
    loss = loss_of(variant=variant, margin=0.3)
    value = value_of(loss, student=STUDENT, teacher=TEACHER)
    assert value.item() == pytest.approx(by_hand(variant, 0.3), rel=1e-10)


def test_equal_teacher_classes_ask_for_nothing(value_of: Callable[..., Any]) -> None:
    assert value_of(loss_of(), student=STUDENT, teacher=torch.zeros(2, 3)) == 0
