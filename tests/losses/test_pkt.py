from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.pkt import PKT

VARIANTS: list[dict[str, Any]] = [{}, {"reduction": "sum"}]


def loss_of(**keys: Any) -> PKT:
    return PKT(student="link.student", teacher="link.teacher", **keys)


def neighbours(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    flat = flat / np.sqrt((flat**2).sum(1, keepdims=True))
    affinity = (1 + flat @ flat.T) / 2
    return affinity / affinity.sum(1, keepdims=True)


def test_reductions(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(5, 3).double(), torch.randn(5, 4, 2, 2).double()
    p, q = neighbours(teacher.numpy()), neighbours(student.numpy())
    terms = p * np.log(p / q)
    for reduction, number in {"mean": terms.mean(), "sum": terms.sum()}.items():
        value = value_of(loss_of(reduction=reduction), student=student, teacher=teacher)
        assert value.item() == pytest.approx(number, rel=1e-12)


def test_opposite_samples(value_of: Callable[..., Any]) -> None:
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    value = value_of(loss_of(), student=student, teacher=torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    value.backward()
    row = 2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3 / 1e-7)  # p = (2, 1) / 3, q = (1, 0)
    assert value.item() == pytest.approx(row / 2, rel=1e-5)
    assert student.grad.isfinite().all()
