from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.log_sum import LogSum
from kdgraph.signals.masked import Masked

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


@pytest.mark.parametrize("keys", VARIANTS)
def test_pads_masked_on_both_sides_add_nothing(
    value_of: Callable[..., Any], keys: dict[str, Any]
) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    student, teacher = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    kept = value_of(loss_of(**keys), student=student[mask], teacher=teacher[mask])
    student[~mask], teacher[~mask] = 7.0, float("nan")
    student.requires_grad_()
    hide = Masked(of="any.tap", mask="there")
    sides = {"student": hide.forward(of=student, mask=mask)}
    sides["teacher"] = hide.forward(of=teacher, mask=mask)
    value = value_of(loss_of(**keys), **sides)
    assert value.item() == pytest.approx(kept.item(), rel=1e-12)
    (grad,) = torch.autograd.grad(value, student)
    assert not grad[~mask].any()
    assert grad[mask].all()
