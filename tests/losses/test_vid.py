from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdgraph.losses.vid import VID

ZERO_AT_EQUAL = False  # the logarithm of the variance is left


def test_against_numpy() -> None:
    student, teacher = torch.randn(2, 4, 3, 2, 2).double()
    module = VID(student="link.student", teacher="link.teacher").module(
        student=(4, 3, 2, 2), teacher=(4, 3, 2, 2)
    )
    spread = torch.tensor([-1.0, 0.5, 3.0])
    with torch.no_grad():
        module.spread.copy_(spread)
    v = np.log1p(np.exp(spread.double().numpy())) + 1e-5
    square = (student - teacher).square().numpy().transpose(0, 2, 3, 1)
    expected = ((square / v + np.log(v)) / 2).mean()
    assert module(student=student, teacher=teacher).item() == pytest.approx(expected, rel=1e-7)


def test_known_value() -> None:
    loss = VID(student="link.student", teacher="link.teacher")
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    value = loss.module(student=(2, 2), teacher=(2, 2))(
        student=student, teacher=torch.zeros_like(student)
    )
    # squares 1, 0, 0, 4 over a variance of 5
    assert value.item() == pytest.approx((5 / 4 / 5 + math.log(5)) / 2)
