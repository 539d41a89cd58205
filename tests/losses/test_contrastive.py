from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.contrastive import Contrastive

ZERO_AT_EQUAL = False
VARIANTS: list[dict[str, Any]] = [{}, {"tau": 0.5}]


def loss_of(**keys: Any) -> Contrastive:
    return Contrastive(student="student.mid", teacher="teacher.mid", **keys)


def test_against_numpy(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 4, 6).double()
    s, t = (
        x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (student, teacher)
    )
    e = np.exp(s @ t.T / 0.1)
    expected = -np.mean(np.log(np.diag(e) / e.sum(1)))
    value = value_of(loss_of(tau=0.1), student=student, teacher=teacher)
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_features_without_a_direction_are_a_guess(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.zeros(4, 6), torch.randn(4, 6)
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(np.log(4), rel=1e-6)
