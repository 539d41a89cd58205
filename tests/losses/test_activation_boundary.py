from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdgraph.losses.activation_boundary import ActivationBoundary

ZERO_AT_EQUAL = False
VARIANTS: list[dict[str, Any]] = [{}, {"margin": 2.0}]


def loss_of(**keys: Any) -> ActivationBoundary:
    return ActivationBoundary(student="student.mid", teacher="teacher.mid", **keys)


def test_known_values(value_of: Callable[..., Any]) -> None:
    student = torch.tensor([[0.5, -0.5, 2.0, -3.0]]).double()
    teacher = torch.tensor([[1.0, 1.0, -1.0, -1.0]]).double()
    # 0.5 short of 1, 1.5 short of 1, 3 beyond -1, and on the right side
    expected = (0.25 + 2.25 + 9 + 0) / 4
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_only_the_signs_of_the_teacher_count(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 3, 5, 2, 2).double()
    one, other = (value_of(loss_of(), student=student, teacher=t) for t in (teacher, 9 * teacher))
    assert one == other


def test_beyond_the_margin_nothing_is_asked(value_of: Callable[..., Any]) -> None:
    teacher = torch.randn(3, 4)
    assert value_of(loss_of(), student=1.5 * teacher.sign(), teacher=teacher) == 0
