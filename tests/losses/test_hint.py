from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.hint import Hint
from kdgraph.spec.entry import ADAPTERS
from kdgraph.spec.shapes import Shape, ShapeMismatch

VARIANTS: list[dict[str, Any]] = [{}, {"reduction": "batchmean"}]


def loss_of(**keys: Any) -> Hint:
    return Hint(student="link.student", teacher="link.teacher", **keys)


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4), (3, 4, 2, 5)])
def test_reductions(value_of: Callable[..., Any], shape: Shape) -> None:
    student, teacher = torch.randn(2, *shape).double()
    square = (student.numpy() - teacher.numpy()) ** 2
    expected = {"mean": square.mean(), "sum": square.sum(), "batchmean": square.sum() / 3}
    for reduction, number in expected.items():
        value = value_of(loss_of(reduction=reduction), student=student, teacher=teacher)
        assert value.item() == pytest.approx(number, rel=1e-12)


def test_padding_is_not_counted(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 2, 3, 4).double()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    square = (student.numpy() - teacher.numpy())[mask.numpy()] ** 2
    value = value_of(loss_of(), student=student, teacher=teacher, mask=mask)
    assert value.item() == pytest.approx(np.mean(square), rel=1e-12)


@pytest.mark.parametrize(
    ("student", "teacher", "adapter"),
    [
        ((2, 8), (2, 16), "linear"),
        ((2, 9, 8), (2, 9, 16), "linear"),
        ((2, 8, 4, 4), (2, 16, 4, 4), "conv1x1"),
        ((2, 8, 4, 4), (2, 8, 2, 2), "resize"),
        ((2, 8, 4, 4), (2, 16, 2, 2), "auto"),
        ((2, 9, 8), (2, 8, 3, 3), "tokens_to_map"),
        ((2, 9, 8), (2, 16, 3, 3), "auto"),
        ((2, 8, 3, 3), (2, 9, 8), "map_to_tokens"),
        ((2, 8, 4, 4), (2, 8), "pool"),
        ((2, 9, 8), (2, 16), "auto"),
    ],
)
def test_the_suggested_adapter_makes_it_fit(student: Shape, teacher: Shape, adapter: str) -> None:
    with pytest.raises(ShapeMismatch, match="equal channels and positions") as caught:
        loss_of().shapes(student=student, teacher=teacher)
    assert caught.value.adapters == (adapter,)
    adapted = ADAPTERS.get(adapter)().shape(student, teacher)
    loss_of().shapes(student=adapted, teacher=teacher)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((2, 9, 8), (2, 4, 8)),
        ((2, 8), (2, 8, 4, 4)),
        ((2, 8), (2, 9, 8)),
        ((2, 8, 4, 4, 4), (2, 8, 2, 2, 2)),
        ((2, 8), (3, 8)),
        ((8,), (8,)),
    ],
)
def test_nothing_is_suggested_where_nothing_fits(student: Shape, teacher: Shape) -> None:
    with pytest.raises(ShapeMismatch) as caught:
        loss_of().shapes(student=student, teacher=teacher)
    assert caught.value.adapters == ()
