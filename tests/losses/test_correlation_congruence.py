from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.correlation_congruence import CorrelationCongruence

VARIANTS: list[dict[str, Any]] = [{}, {"variant": "bilinear"}, {"gamma": 1.0, "order": 3}]


def loss_of(**keys: Any) -> CorrelationCongruence:
    return CorrelationCongruence(student="student.mid", teacher="teacher.mid", **keys)


def rows(x: torch.Tensor) -> Any:
    flat = x.flatten(1).numpy()
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_against_numpy(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(4, 3).double(), torch.randn(4, 2, 3).double()

    def kernel(x: Any) -> Any:
        product = x @ x.T
        return np.exp(-0.8) * (1 + 0.8 * product + 0.32 * product**2)

    gap = kernel(rows(student)) - kernel(rows(teacher))
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(np.mean(gap**2), rel=1e-12)
    gap = rows(student) @ rows(student).T - rows(teacher) @ rows(teacher).T
    value = value_of(loss_of(variant="bilinear"), student=student, teacher=teacher)
    assert value.item() == pytest.approx(np.mean(gap**2), rel=1e-12)


def test_a_long_series_is_the_gaussian_kernel(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 4, 3).double()

    def gaussian(x: Any) -> Any:
        return np.exp(-0.4 * ((x[:, None] - x[None]) ** 2).sum(-1))

    gap = gaussian(rows(student)) - gaussian(rows(teacher))
    value = value_of(loss_of(order=12), student=student, teacher=teacher)
    assert value.item() == pytest.approx(np.mean(gap**2), rel=1e-8)
