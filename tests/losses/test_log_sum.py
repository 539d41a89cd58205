from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.log_sum import LogSum

ZERO_AT_EQUAL = False  # a logarithm has no least value there
VARIANTS: list[dict[str, Any]] = [{}, {"exponent": 1.0}, {"exponent": 2.5}]


def loss_of(**keys: Any) -> LogSum:
    return LogSum(student="link.student", teacher="link.teacher", **keys)


def test_known_values(value_of: Callable[..., Any]) -> None:
    student = torch.tensor([[1.0, 0.0], [-2.0, 3.0]]).double()
    sides = {"student": student, "teacher": torch.zeros_like(student)}
    assert value_of(loss_of(), **sides).item() == pytest.approx(math.log(1 + 16 + 81), rel=1e-12)
    assert value_of(loss_of(exponent=1.0), **sides).item() == pytest.approx(math.log(6), rel=1e-12)


def test_value_and_gradient_against_numpy(value_of: Callable[..., Any]) -> None:
    s, t = np.random.default_rng(2).normal(size=(2, 4, 5))
    student = torch.from_numpy(s).requires_grad_()
    value = value_of(loss_of(exponent=3.0), student=student, teacher=torch.from_numpy(t))
    (grad,) = torch.autograd.grad(value, student)
    total = (np.abs(s - t) ** 3).sum()
    assert value.item() == pytest.approx(np.log(total), rel=1e-10)
    want = 3 * np.abs(s - t) * (s - t) / total
    np.testing.assert_allclose(grad.numpy(), want, rtol=1e-9)


def test_equal_sides_ask_nothing(value_of: Callable[..., Any]) -> None:
    student = torch.ones(3, 4, requires_grad=True)
    value = value_of(loss_of(exponent=1.0), student=student, teacher=torch.ones(3, 4))
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert not student.grad.any()
