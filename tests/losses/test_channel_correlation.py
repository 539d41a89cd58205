from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.channel_correlation import ChannelCorrelation
from kdgraph.spec.entry import ADAPTERS
from kdgraph.spec.shapes import Shape, ShapeMismatch

VARIANTS: list[dict[str, Any]] = [{}, {"variant": "code"}, {"variant": "cosine"}]


def loss_of(**keys: Any) -> ChannelCorrelation:
    return ChannelCorrelation(student="link.student", teacher="link.teacher", **keys)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def test_variants(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(3, 4, 2, 2).double(), torch.randn(3, 4, 5, 3).double()
    sums, cosines = [], []
    for s, t in zip(student.flatten(2).numpy(), teacher.flatten(2).numpy(), strict=True):
        sums.append(((unit(s @ s.T) - unit(t @ t.T)) ** 2).sum())
        cosines.append(((unit(s) @ unit(s).T - unit(t) @ unit(t).T) ** 2).sum())
    expected = {
        "paper": np.mean(sums) / 16,
        "code": np.mean(sums) / 4,
        "cosine": np.mean(cosines) / 16,
    }
    for variant, number in expected.items():
        value = value_of(loss_of(variant=variant), student=student, teacher=teacher)
        assert value.item() == pytest.approx(number, rel=1e-12)


def test_known_number_of_the_cosine_variant(value_of: Callable[..., Any]) -> None:
    student = torch.tensor([[[0.5, 1, 1], [1, -1, 0]]], dtype=torch.float64)  # [B, C, N]
    teacher = torch.tensor([[[1, 0, 2], [0, 1, 1]]], dtype=torch.float64)
    loss = loss_of(variant="cosine")
    value = value_of(loss, student=student.unsqueeze(2), teacher=teacher.unsqueeze(2))
    assert value.item() == pytest.approx(0.376848976278, abs=1e-12)
    assert value_of(loss, student=student.mT, teacher=teacher.mT) == value


def test_a_map_against_tokens(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(3, 4, 2, 5), torch.randn(3, 4, 3, 2)
    loss_of().shapes(student=(3, 4, 2, 5), teacher=(3, 6, 4))
    maps = value_of(loss_of(), student=student, teacher=teacher)
    mixed = value_of(loss_of(), student=student, teacher=teacher.flatten(2).mT)
    torch.testing.assert_close(mixed, maps)


@pytest.mark.parametrize(
    ("student", "teacher", "adapter"),
    [
        ((2, 8, 4, 4), (2, 16, 2, 2), "conv1x1"),
        ((2, 8, 4, 4), (2, 9, 16), "conv1x1"),
        ((2, 9, 8), (2, 9, 16), "linear"),
        ((2, 9, 8), (2, 16, 2, 2), "linear"),
    ],
)
def test_the_suggested_adapter_makes_it_fit(student: Shape, teacher: Shape, adapter: str) -> None:
    with pytest.raises(ShapeMismatch, match="equal channels") as caught:
        loss_of().shapes(student=student, teacher=teacher)
    assert caught.value.adapters == (adapter,)
    adapted = ADAPTERS.get(adapter)().shape(student, teacher)
    loss_of().shapes(student=adapted, teacher=teacher)
