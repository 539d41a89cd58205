from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.confidence_penalty import ConfidencePenalty

LOGITS = True
VARIANTS: list[dict[str, Any]] = [{}, {"tau": 2.0}]

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)


def loss_of(**keys: Any) -> ConfidencePenalty:
    return ConfidencePenalty(student="student.logits", **keys)


def softmax(x: np.ndarray, tau: float = 1.0) -> Any:
    """Over the last dimension, apart from the code under test."""
    e = np.exp(x / tau)
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_against_numpy(value_of: Callable[..., Any], tau: float) -> None:
    q = softmax(STUDENT.numpy(), tau)
    value = value_of(loss_of(tau=tau), student=STUDENT)
    assert value.item() == pytest.approx((q * np.log(q)).sum(-1).mean(), rel=1e-12)


def test_bounds(value_of: Callable[..., Any]) -> None:
    even, sure = torch.zeros(1, 8), 1e4 * torch.eye(8)[:1]
    assert value_of(loss_of(), student=even).item() == pytest.approx(-np.log(8))
    assert value_of(loss_of(), student=sure).item() == pytest.approx(0)
