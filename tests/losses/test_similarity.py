from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.similarity import Similarity


def loss_of(**keys: Any) -> Similarity:
    return Similarity(student="link.student", teacher="link.teacher", **keys)


def similarities(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    gram = flat @ flat.T
    return gram / np.sqrt((gram**2).sum(1, keepdims=True))


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 5), (4, 7)), ((4, 3, 5), (4, 7)), ((4, 3, 2, 2), (4, 6, 4, 4))]
)
def test_any_two_sizes(
    value_of: Callable[..., Any], student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    s, t = torch.randn(student).double(), torch.randn(teacher).double()
    gap = similarities(s.numpy()) - similarities(t.numpy())
    value = value_of(loss_of(), student=s, teacher=t)
    assert value.item() == pytest.approx((gap**2).sum() / 16, rel=1e-12)


def test_by_hand(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0], [1.0]])
    value = value_of(loss_of(), student=student, teacher=teacher)  # rows (1, 0), (1, 1) / sqrt 2
    assert value.item() == pytest.approx(2 * (2 - np.sqrt(2)) / 4, rel=1e-6)


def test_one_sample_is_like_itself(value_of: Callable[..., Any]) -> None:
    assert value_of(loss_of(), student=torch.randn(1, 3), teacher=torch.randn(1, 5)) < 1e-12
