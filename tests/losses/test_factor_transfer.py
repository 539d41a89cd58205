from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.factor_transfer import FactorTransfer

VARIANTS: list[dict[str, Any]] = [{}, {"p": 2}]


def loss_of(**keys: Any) -> FactorTransfer:
    return FactorTransfer(student="link.student", teacher="link.teacher", **keys)


def test_known_values(value_of: Callable[..., Any]) -> None:
    student = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).double()
    teacher = torch.tensor([[0.0, 9.0], [0.0, 5.0]]).double()
    # (0.6, 0.8) against (0, 1), and the same direction
    sides = {"student": student, "teacher": teacher}
    assert value_of(loss_of(), **sides).item() == pytest.approx((0.6 + 0.2) / 2, rel=1e-12)
    root = np.sqrt(0.36 + 0.04)
    assert value_of(loss_of(p=2), **sides).item() == pytest.approx(root / 2, rel=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_against_numpy(value_of: Callable[..., Any], p: int) -> None:
    s, t = np.random.default_rng(5).normal(size=(2, 4, 3, 2, 2))

    def directions(x: np.ndarray) -> np.ndarray:
        rows = x.reshape(4, -1)
        found: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return found

    expected = np.linalg.norm(directions(s) - directions(t), ord=p, axis=1).mean()
    sides = {"student": torch.from_numpy(s), "teacher": torch.from_numpy(t)}
    assert value_of(loss_of(p=p), **sides).item() == pytest.approx(expected, rel=1e-10)


def test_the_size_of_neither_side_counts(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 3, 5).double()
    value = value_of(loss_of(), student=student, teacher=teacher)
    other = value_of(loss_of(), student=7 * student, teacher=teacher / 9)
    assert other.item() == pytest.approx(value.item(), rel=1e-12)
