from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.logit_mae import LogitMAE

LOGITS = True

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)


def loss_of(**keys: Any) -> LogitMAE:
    return LogitMAE(student="student.logits", teacher="teacher.logits", **keys)


def test_reductions(value_of: Callable[..., Any]) -> None:
    gap = np.abs(STUDENT.numpy() - TEACHER.numpy())
    expected = {"mean": gap.mean(), "sum": gap.sum(), "batchmean": gap.sum() / 2}
    for reduction, number in expected.items():
        value = value_of(loss_of(reduction=reduction), student=STUDENT, teacher=TEACHER)
        assert value.item() == pytest.approx(number, rel=1e-12)


def test_masked_classes_are_left_out(value_of: Callable[..., Any]) -> None:
    teacher = TEACHER.clone()
    teacher[:, 2] = -float("inf")
    expected = np.abs(STUDENT.numpy() - TEACHER.numpy())[:, :2].mean()
    value = value_of(loss_of(), student=STUDENT, teacher=teacher)
    assert value.item() == pytest.approx(expected, rel=1e-12)
