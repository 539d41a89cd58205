from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.channel_wise import ChannelWise

VARIANTS: list[dict[str, Any]] = [{}, {"tau": 4.0}]


def loss_of(**keys: Any) -> ChannelWise:
    return ChannelWise(student="link.student", teacher="link.teacher", **keys)


def rows_of(student: np.ndarray, teacher: np.ndarray, tau: float) -> np.ndarray:
    """[B, C] from [B, C, N]."""
    q, p = np.exp(student / tau), np.exp(teacher / tau)
    q, p = q / q.sum(-1, keepdims=True), p / p.sum(-1, keepdims=True)
    return tau**2 * (p * np.log(p / q)).sum(-1)


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_reductions(value_of: Callable[..., Any], tau: float) -> None:
    student, teacher = torch.randn(2, 3, 4, 2, 5).double()
    rows = rows_of(student.flatten(2).numpy(), teacher.flatten(2).numpy(), tau)
    expected = {"mean": rows.mean(), "sum": rows.sum(), "batchmean": rows.sum() / 3}
    for reduction, number in expected.items():
        loss = loss_of(tau=tau, reduction=reduction)
        value = value_of(loss, student=student, teacher=teacher)
        assert value.item() == pytest.approx(number, rel=1e-11)
        tokens = {"student": student.flatten(2).mT, "teacher": teacher.flatten(2).mT}
        torch.testing.assert_close(value_of(loss, **tokens), value)


def test_channels_can_be_left_out(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 3, 4, 2, 5).double()
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    rows = rows_of(student.flatten(2).numpy(), teacher.flatten(2).numpy(), 1)
    value = value_of(loss_of(), student=student, teacher=teacher, mask=mask)
    assert value.item() == pytest.approx(np.mean(rows[mask.numpy() == 1]))
