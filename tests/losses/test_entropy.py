from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.entropy import Entropy

LOGITS = True
VARIANTS: list[dict[str, Any]] = [{}, {"tau": 2.0}, {"reduction": "sum"}]

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)


def loss_of(**keys: Any) -> Entropy:
    return Entropy(student="student.logits", **keys)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_against_numpy(value_of: Callable[..., Any], tau: float) -> None:
    e = np.exp(STUDENT.numpy() / tau)
    q = e / e.sum(-1, keepdims=True)
    value = value_of(loss_of(tau=tau), student=STUDENT)
    assert value.item() == pytest.approx(-(q * np.log(q)).sum(-1).mean(), rel=1e-12)


def test_bounds(value_of: Callable[..., Any]) -> None:
    even, sure = torch.zeros(1, 8), 1e4 * torch.eye(8)[:1]
    assert value_of(loss_of(), student=even).item() == pytest.approx(np.log(8))
    assert value_of(loss_of(), student=sure).item() == pytest.approx(0)


def test_rows_of_a_known_attention(value_of: Callable[..., Any]) -> None:
    """Routing ``softmax(b epoch / 5)`` at epoch 10."""
    b = torch.tensor([[0.2, 0.9], [0.6, 0.1]], dtype=torch.float64)
    each = [value_of(loss_of(), student=(2 * row)[None]).item() for row in b]
    assert each == pytest.approx([0.497359965936, 0.582203108888], abs=1e-12)
