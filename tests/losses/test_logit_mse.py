from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.logit_mse import LogitMSE

LOGITS = True


def loss_of(**keys: Any) -> LogitMSE:
    return LogitMSE(student="student.logits", teacher="teacher.logits", **keys)


def test_reductions(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 3, 5, 4).double()
    square = (student.numpy() - teacher.numpy()) ** 2
    expected = {"mean": square.mean(), "sum": square.sum(), "batchmean": square.sum() / 3}
    for reduction, number in expected.items():
        value = value_of(loss_of(reduction=reduction), student=student, teacher=teacher)
        assert value.item() == pytest.approx(number, rel=1e-12)


def test_masked_classes_are_left_out(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 3, 5).double()
    expected = np.mean((student.numpy()[:, :4] - teacher.numpy()[:, :4]) ** 2)
    teacher[:, 4] = -float("inf")
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(expected, rel=1e-12)
