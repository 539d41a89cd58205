from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.hierarchical import Hierarchical

VARIANTS: list[dict[str, Any]] = [{}, {"sizes": [1]}]


def loss_of(**keys: Any) -> Hierarchical:
    return Hierarchical(student="student.mid", teacher="teacher.mid", **keys)


def test_against_numpy(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 3, 5, 8, 8).double()
    gap = (student - teacher).numpy()

    def pooled(size: int) -> Any:
        cell = 8 // size
        return gap.reshape(3, 5, size, cell, size, cell).mean((3, 5))

    parts = [np.mean(gap**2), *(np.mean(pooled(size) ** 2) for size in (4, 2, 1))]
    expected = np.dot(parts, [1, 1 / 2, 1 / 4, 1 / 8]) / 1.875
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_sizes_as_large_as_the_map_are_left_out(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 3, 5, 4, 4).double()
    one, other = (
        value_of(loss_of(sizes=sizes), student=student, teacher=teacher)
        for sizes in ([4, 2, 1], [2, 1])
    )
    torch.testing.assert_close(one, other)
