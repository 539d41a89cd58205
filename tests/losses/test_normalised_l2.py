from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdgraph.losses.cosine import Cosine
from kdgraph.losses.normalised_l2 import NormalisedL2

Z_T = torch.tensor([[3, 4], [1, 0]], dtype=torch.float64)
Z_G = torch.tensor([[4, 3], [1, 1]], dtype=torch.float64)


def loss_of(**keys: Any) -> NormalisedL2:
    return NormalisedL2(student="student.logits", teacher="teacher.logits", **keys)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_golden(value_of: Callable[..., Any], dtype: torch.dtype, rel: float) -> None:
    student, teacher = Z_G.to(dtype), Z_T.to(dtype)
    value = value_of(loss_of(reduction="sum"), student=student, teacher=teacher)
    assert value.item() == pytest.approx(0.6657864376269050, rel=rel)
    assert value.item() == pytest.approx(0.08 + 2 - math.sqrt(2), rel=rel)


def test_twice_the_cosine_distance(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 3, 5, 2, 2).double()
    cosine = Cosine(student="student.mid", teacher="teacher.mid")
    expected = 2 * value_of(cosine, student=student, teacher=teacher)
    torch.testing.assert_close(value_of(loss_of(), student=student, teacher=teacher), expected)


def test_close_vectors_keep_their_digits(value_of: Callable[..., Any]) -> None:
    teacher = torch.tensor([[1.0, 0.0]])
    student = torch.tensor([[1.0, 2.0**-20]])  # float32 cannot tell 1 - cos from 0 here
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(2.0**-40, rel=1e-5)


def test_a_vector_of_no_length(value_of: Callable[..., Any]) -> None:
    student = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    value = value_of(loss_of(), student=student, teacher=Z_T[:1])
    assert value.item() == pytest.approx(1)
    (grad,) = torch.autograd.grad(value, student)
    assert not grad.any()
