from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.nst import NST

VARIANTS: list[dict[str, Any]] = [{}, {"variant": "linear"}]


def loss_of(**keys: Any) -> NST:
    return NST(student="student.mid", teacher="teacher.mid", **keys)


@pytest.mark.parametrize("variant", ["polynomial", "linear"])
def test_against_numpy(value_of: Callable[..., Any], variant: str) -> None:
    student, teacher = torch.randn(2, 3, 2, 2).double(), torch.randn(2, 5, 2, 2).double()

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        product = a @ b.T
        return float(np.mean(product**2 if variant == "polynomial" else product))

    rows = []
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        s, t = (x.reshape(len(x), -1) for x in (s, t))
        s, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (s, t))
        rows.append(mean(t, t) + mean(s, s) - 2 * mean(s, t))
    value = value_of(loss_of(variant=variant), student=student, teacher=teacher)
    assert value.item() == pytest.approx(np.mean(rows), rel=1e-10)


def test_the_order_and_scale_of_channels_do_not_count(value_of: Callable[..., Any]) -> None:
    teacher = torch.randn(2, 4, 3, 3).double()
    student = teacher[:, [2, 0, 3, 1]] * torch.tensor([1.0, 2, 3, 4]).view(-1, 1, 1)
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(0, abs=1e-14)
