from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdgraph.losses.activation_norm import ActivationNorm

VARIANTS: list[dict[str, Any]] = [{}, {"norm": "l2"}]

ACTIVE = torch.tensor([[0.5, 0.65, 0, 2], [0, 0.5, 0, 0.4]], dtype=torch.float64)


def test_known_values(value_of: Callable[..., Any]) -> None:
    l1, l2 = (ActivationNorm(student="student.mid", norm=norm) for norm in ("l1", "l2"))
    assert value_of(l1, student=ACTIVE).item() == pytest.approx(2.025, rel=1e-12)
    # half the squares 0.25, 0.4225, 4, 0.25 and 0.16, over two samples
    assert value_of(l2, student=ACTIVE).item() == pytest.approx(1.270625, rel=1e-12)


def test_silent_neurons_cost_nothing_and_stay(value_of: Callable[..., Any]) -> None:
    active = ACTIVE.clone().requires_grad_()
    value_of(ActivationNorm(student="student.mid"), student=active).backward()
    torch.testing.assert_close(active.grad, (ACTIVE > 0).double() / 2)
