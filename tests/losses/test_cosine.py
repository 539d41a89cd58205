from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.cosine import Cosine, directions


def loss_of(**keys: Any) -> Cosine:
    return Cosine(student="link.student", teacher="link.teacher", **keys)


def rows_of(s: np.ndarray, t: np.ndarray, axis: int) -> np.ndarray:
    return 1 - (s * t).sum(axis) / np.sqrt((s**2).sum(axis) * (t**2).sum(axis))


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 4), 1), ((3, 2, 4), 2), ((3, 4, 2, 5), 1), ((3, 4, 2, 2, 2), 1)]
)
def test_over_the_channels(value_of: Callable[..., Any], shape: tuple[int, ...], axis: int) -> None:
    student, teacher = torch.randn(2, *shape).double()
    expected = rows_of(student.numpy(), teacher.numpy(), axis).mean()
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_directions(value_of: Callable[..., Any]) -> None:
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    teacher = torch.tensor([[6.0, 8.0], [-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    rows = loss_of().rows(student=directions(student), teacher=directions(teacher))
    torch.testing.assert_close(rows, torch.tensor([0.0, 2.0, 1.0, 1.0]))


def test_padding_is_not_counted(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 2, 3, 4).double()
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    rows = rows_of(student.numpy(), teacher.numpy(), 2)[mask.numpy() == 1]
    value = value_of(loss_of(), student=student, teacher=teacher, mask=mask)
    assert value.item() == pytest.approx(rows.mean())
