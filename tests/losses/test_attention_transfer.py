from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.attention_transfer import AttentionTransfer
from kdgraph.spec.shapes import ShapeMismatch

VARIANTS: list[dict[str, Any]] = [{}, {"variant": "paper"}, {"p": 4.0}, {"p": 1.0}]


def loss_of(**keys: Any) -> AttentionTransfer:
    return AttentionTransfer(student="link.student", teacher="link.teacher", **keys)


def attention(x: np.ndarray, p: float) -> np.ndarray:
    energy = (np.abs(x) ** p).sum(1).reshape(len(x), -1)
    return energy / np.sqrt((energy**2).sum(1, keepdims=True))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5, 4.0])
def test_variants(value_of: Callable[..., Any], p: float) -> None:
    student, teacher = torch.randn(3, 2, 4, 5).double(), torch.randn(3, 6, 4, 5).double()
    gap = attention(student.numpy(), p) - attention(teacher.numpy(), p)
    expected = {"code": (gap**2).mean(), "paper": np.sqrt((gap**2).sum(1)).mean()}
    for variant, number in expected.items():
        value = value_of(loss_of(variant=variant, p=p), student=student, teacher=teacher)
        assert value.item() == pytest.approx(number, rel=1e-12)


def test_by_hand(value_of: Callable[..., Any]) -> None:
    student = torch.tensor([[[[1.0, 1.0]], [[1.0, 1.0]]]])  # Q = (1, 1) / sqrt 2
    teacher = torch.tensor([[[[3.0, 0.0]]]])  # Q = (1, 0)
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx((2 - np.sqrt(2)) / 2, rel=1e-6)
    value = value_of(loss_of(variant="paper"), student=student, teacher=teacher)
    assert value.item() == pytest.approx(np.sqrt(2 - np.sqrt(2)), rel=1e-6)


def test_tokens_are_positions(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(3, 4, 2, 5), torch.randn(3, 6, 2, 5)
    tokens = {"student": student.flatten(2).mT, "teacher": teacher.flatten(2).mT}
    maps = value_of(loss_of(), student=student, teacher=teacher)
    torch.testing.assert_close(value_of(loss_of(), **tokens), maps)


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
def test_strength_does_not_matter(value_of: Callable[..., Any], p: float) -> None:
    student, teacher = torch.randn(2, 3, 64, 4, 5)
    value = value_of(loss_of(p=p), student=student, teacher=teacher)
    strong = value_of(loss_of(p=p), student=6e4 * student, teacher=6e4 * teacher)
    assert strong.item() == pytest.approx(value.item(), rel=1e-5)


def test_mismatches_say_what_would_fit() -> None:
    loss_of().shapes(student=(2, 8, 4, 4), teacher=(2, 16, 4, 4))
    with pytest.raises(ShapeMismatch, match="equal positions") as caught:
        loss_of().shapes(student=(2, 8, 4, 4), teacher=(2, 16, 2, 2))
    assert caught.value.adapters == ("resize",)
    with pytest.raises(ShapeMismatch, match="dimensions"):
        loss_of().shapes(student=(2, 8), teacher=(2, 8))
