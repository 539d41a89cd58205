from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.dist import DIST

LOGITS = True
VARIANTS: list[dict[str, Any]] = [{}, {"tau": 4.0, "inter": 2.0, "intra": 0.5}]


def loss_of(**keys: Any) -> DIST:
    return DIST(student="student.logits", teacher="teacher.logits", **keys)


def softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x)
    return p / p.sum(-1, keepdims=True)


def distance(q: np.ndarray, p: np.ndarray) -> Any:
    """1 - correlation, averaged over the rows."""
    return np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_rows_and_classes(value_of: Callable[..., Any], tau: float) -> None:
    student, teacher = torch.randn(2, 6, 5).double()
    q, p = softmax(student.numpy() / tau), softmax(teacher.numpy() / tau)
    expected = tau**2 * (2 * distance(q, p) + 0.5 * distance(q.T, p.T))
    loss = loss_of(tau=tau, inter=2.0, intra=0.5)
    value = value_of(loss, student=student, teacher=teacher)
    assert value.item() == pytest.approx(expected, rel=1e-11)
    maps = {n: x.reshape(2, 3, 5, 1).movedim(2, 1)
            for n, x in (("student", student), ("teacher", teacher))}  # fmt: skip
    tokens = {"student": student.reshape(3, 2, 5), "teacher": teacher.reshape(3, 2, 5)}
    torch.testing.assert_close(value_of(loss, **maps), value)
    torch.testing.assert_close(value_of(loss, **tokens), value)


def test_one_sample_has_no_correlation_over_the_batch(value_of: Callable[..., Any]) -> None:
    logits = torch.randn(1, 5)
    assert value_of(loss_of(), student=logits, teacher=logits).item() == pytest.approx(1)


@pytest.mark.parametrize("K", [7, 12, 1000])
def test_constant_rows_are_known_as_such(value_of: Callable[..., Any], K: int) -> None:
    student = torch.full((7, K), 0.3, requires_grad=True)  # their mean is not always their value
    value = value_of(loss_of(), student=student, teacher=torch.randn(7, K))
    value.backward()
    assert value.item() == pytest.approx(2)
    assert torch.equal(student.grad, torch.zeros(7, K))
