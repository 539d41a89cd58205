from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.weighted_soft_label import WeightedSoftLabel

LOGITS = True
ZERO_AT_EQUAL = False
CONSTANT_PART = True
MASKED = ("both",)
VARIANTS: list[dict[str, Any]] = [{}, {"tau": 4.0}]


def further(student: torch.Tensor) -> dict[str, torch.Tensor]:
    rows = student.amax(1 if student.dim() == 4 else -1)
    label = torch.arange(rows.numel()).reshape(rows.shape) % 3
    return {"target": label.clamp_max(student.shape[1 if student.dim() == 4 else -1] - 1)}


STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)


def loss_of(**keys: Any) -> WeightedSoftLabel:
    return WeightedSoftLabel(
        student="student.logits", teacher="teacher.logits", target="label", **keys
    )


def softmax(x: np.ndarray, tau: float = 1.0) -> Any:
    """Over the last dimension, apart from the code under test."""
    e = np.exp(x / tau)
    return e / e.sum(-1, keepdims=True)


LABEL = torch.tensor([0, 1])


def by_hand(tau: float) -> Any:
    p, q = softmax(TEACHER.numpy(), tau), softmax(STUDENT.numpy(), tau)
    own, known = (
        -np.log(softmax(x.numpy())[np.arange(2), LABEL.numpy()]) for x in (STUDENT, TEACHER)
    )
    return tau**2 * ((1 - np.exp(-own / known)) * -(p * np.log(q)).sum(-1)).mean()


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
def test_against_numpy(value_of: Callable[..., Any], tau: float) -> None:
    tensors = {"student": STUDENT, "teacher": TEACHER, "target": LABEL}
    value = value_of(loss_of(tau=tau), **tensors)
    assert value.item() == pytest.approx(by_hand(tau), rel=1e-10)


def test_the_weight_has_no_gradient(value_of: Callable[..., Any]) -> None:
    student = STUDENT.clone().requires_grad_()
    value_of(loss_of(), student=student, teacher=TEACHER, target=LABEL).backward()
    p, q = (torch.from_numpy(softmax(x.numpy(), 2.0)) for x in (TEACHER, STUDENT))
    own, known = (
        -torch.from_numpy(np.log(softmax(x.numpy())))[torch.arange(2), LABEL]
        for x in (STUDENT, TEACHER)
    )
    weight = 1 - torch.exp(-own / known)
    torch.testing.assert_close(student.grad, 2 * weight.unsqueeze(1) * (q - p) / 2)


def test_a_teacher_without_doubt_counts_whole(value_of: Callable[..., Any]) -> None:
    teacher = torch.tensor([[60.0, 0, 0]])
    student = torch.tensor([[0.0, 0, 0]])
    loss = loss_of(tau=1.0)
    value = value_of(loss, student=student, teacher=teacher, target=torch.tensor([0]))
    assert value.item() == pytest.approx(np.log(3), rel=1e-6)


def test_ignored_labels_move_nothing(value_of: Callable[..., Any]) -> None:
    student, teacher = (torch.cat([x, torch.full((1, 3), 7.0)]) for x in (STUDENT, TEACHER))
    more = {"student": student, "teacher": teacher, "target": torch.tensor([0, 1, -100])}
    few = value_of(loss_of(), student=STUDENT, teacher=TEACHER, target=LABEL)
    torch.testing.assert_close(value_of(loss_of(), **more), few)


def test_a_teacher_that_rules_the_label_out_says_nothing(value_of: Callable[..., Any]) -> None:
    nothing = -float("inf")
    student, teacher = torch.tensor([[0, 1, nothing]]), torch.tensor([[nothing, 1, 0]])
    value = value_of(loss_of(), student=student, teacher=teacher, target=torch.tensor([0]))
    assert value == 0
