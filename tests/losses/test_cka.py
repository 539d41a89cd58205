from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.cka import CKA


def loss_of(**keys: Any) -> CKA:
    return CKA(student="student.mid", teacher="teacher.mid", **keys)


def test_against_numpy(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(5, 3).double(), torch.randn(5, 2, 4).double()
    x, y = (t.flatten(1).numpy() for t in (student, teacher))
    x, y = x - x.mean(0), y - y.mean(0)
    aligned = np.sum((x.T @ y) ** 2) / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(1 - aligned, rel=1e-10)


def test_rotation_scale_and_shift_do_not_count(value_of: Callable[..., Any]) -> None:
    teacher = torch.randn(6, 4).double()
    turn = torch.linalg.qr(torch.randn(4, 4).double()).Q
    value = value_of(loss_of(), student=3 * teacher @ turn + 5, teacher=teacher)
    assert value.item() == pytest.approx(0, abs=1e-12)
