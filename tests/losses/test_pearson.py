from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.pearson import Pearson


def loss_of(**keys: Any) -> Pearson:
    return Pearson(student="student.mid", teacher="teacher.mid", **keys)


def test_against_numpy(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 4, 3, 2, 2).double()
    r = [
        np.corrcoef(student[:, c].flatten().numpy(), teacher[:, c].flatten().numpy())[0, 1]
        for c in range(3)
    ]
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(1 - np.mean(r), rel=1e-10)


def test_it_is_half_the_error_of_normalised_channels(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 4, 3, 2, 2).double()
    s, t = (
        torch.nn.functional.batch_norm(x, None, None, training=True, eps=1e-14)
        for x in (student, teacher)
    )
    value = value_of(loss_of(), student=student, teacher=teacher)
    torch.testing.assert_close(value, (s - t).square().mean() / 2)


def test_scale_and_shift_of_a_channel_do_not_count(value_of: Callable[..., Any]) -> None:
    teacher = torch.randn(4, 5, 3).double()
    student = teacher * torch.tensor([1.0, 2, 3]) + torch.tensor([0.0, 1, -1])
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(0, abs=1e-12)
