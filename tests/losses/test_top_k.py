from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.top_k import TopK

LOGITS = True
MASKED = ("teacher", "both")
VARIANTS: list[dict[str, Any]] = [
    {"k": 2}, {"k": 2, "tail": "renormalise"}, {"k": 9, "tau": 4.0, "scale": False}
]  # fmt: skip

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)


def loss_of(**keys: Any) -> TopK:
    return TopK(student="student.logits", teacher="teacher.logits", **keys)


def softmax(x: np.ndarray, tau: float = 1.0) -> Any:
    """Over the last dimension, apart from the code under test."""
    e = np.exp(x / tau)
    return e / e.sum(-1, keepdims=True)


def by_hand(tail: str) -> Any:
    p, q = softmax(TEACHER.numpy()), softmax(STUDENT.numpy())
    top = np.argsort(-p)[:, :2]
    p, q = (np.take_along_axis(x, top, 1) for x in (p, q))
    if tail == "bucket":
        p, q = (np.concatenate([x, 1 - x.sum(1, keepdims=True)], 1) for x in (p, q))
    else:
        p, q = (x / x.sum(1, keepdims=True) for x in (p, q))
    return (p * np.log(p / q)).sum(1).mean()


@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
def test_against_numpy(value_of: Callable[..., Any], tail: str) -> None:
    value = value_of(loss_of(k=2, tail=tail), student=STUDENT, teacher=TEACHER)
    assert value.item() == pytest.approx(by_hand(tail), rel=1e-10)


def test_with_every_class_it_is_a_soft_target(value_of: Callable[..., Any]) -> None:
    value = value_of(loss_of(k=3, tau=4.0), student=STUDENT, teacher=TEACHER)
    assert value.item() == pytest.approx(0.620981946577, abs=1e-11)


def test_what_the_rest_holds_does_not_matter(value_of: Callable[..., Any]) -> None:
    teacher = torch.tensor([[5.0, 4, 1, 0, -1]]).double()
    student = torch.tensor([[1.0, 2, 0.3, 0.1, 0.2]]).double()
    for tail in ("bucket", "renormalise"):
        values = [
            value_of(loss_of(k=2, tail=tail), student=s, teacher=teacher)
            for s in (student, student[:, [0, 1, 4, 2, 3]])
        ]
        torch.testing.assert_close(*values)


def test_a_teacher_without_a_tail(value_of: Callable[..., Any]) -> None:
    teacher = torch.tensor([[200.0, 199, -200, -200]])
    value = value_of(loss_of(k=2), student=teacher.clone(), teacher=teacher)
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_a_sure_and_wrong_student_still_learns(value_of: Callable[..., Any]) -> None:
    student = torch.tensor([[110.0, 0, 0, 0]]).requires_grad_()
    teacher = torch.tensor([[2.0, 1, 1, 0]])
    value_of(loss_of(k=1), student=student, teacher=teacher).backward()
    assert student.grad is not None
    assert student.grad[0, 0] > 0.4


def test_a_student_that_masks_all_of_them_costs_infinitely_much(
    value_of: Callable[..., Any],
) -> None:
    student = torch.tensor([[-float("inf"), 0, 0, 0]])
    value = value_of(loss_of(k=1, tail="renormalise"), student=student, teacher=torch.eye(4)[:1])
    assert value == float("inf")
