from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.decoupled import Decoupled

LOGITS = True
ZERO_AT_EQUAL = True
VARIANTS: list[dict[str, Any]] = [{}, {"alpha": 2.0, "beta": 0.5, "tau": 1.0}]


def further(student: torch.Tensor) -> dict[str, torch.Tensor]:
    rows = student.amax(1 if student.dim() == 4 else -1)
    label = torch.arange(rows.numel()).reshape(rows.shape) % 3
    return {"target": label.clamp_max(student.shape[1 if student.dim() == 4 else -1] - 1)}


STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)


def loss_of(**keys: Any) -> Decoupled:
    return Decoupled(student="student.logits", teacher="teacher.logits", target="label", **keys)


def softmax(x: np.ndarray, tau: float = 1.0) -> Any:
    """Over the last dimension, apart from the code under test."""
    e = np.exp(x / tau)
    return e / e.sum(-1, keepdims=True)


LABEL = torch.tensor([0, 1])


def kl(p: np.ndarray, q: np.ndarray) -> Any:
    return (p * np.log(p / q)).sum(-1)


def by_hand(tau: float, alpha: float, beta: float) -> Any:
    p, q = softmax(TEACHER.numpy(), tau), softmax(STUDENT.numpy(), tau)
    total = []
    for i, y in enumerate(LABEL.tolist()):
        binary = [np.array([x[i, y], 1 - x[i, y]]) for x in (p, q)]
        rest = [np.delete(x[i], y) / (1 - x[i, y]) for x in (p, q)]
        total.append(alpha * kl(*binary) + beta * kl(*rest))
    return tau**2 * np.mean(total)


@pytest.mark.parametrize(("tau", "alpha", "beta"), [(1.0, 1.0, 8.0), (4.0, 1.0, 8.0), (4.0, 0, 1)])
def test_against_numpy(value_of: Callable[..., Any], tau: float, alpha: float, beta: float) -> None:
    loss = loss_of(tau=tau, alpha=float(alpha), beta=float(beta))
    value = value_of(loss, student=STUDENT, teacher=TEACHER, target=LABEL)
    assert value.item() == pytest.approx(by_hand(tau, alpha, beta), rel=1e-10)


def test_weighted_by_the_teachers_doubt_it_is_plain_distillation(
    value_of: Callable[..., Any],
) -> None:
    doubt = 1 - torch.from_numpy(softmax(TEACHER.numpy(), 4.0))[torch.arange(2), LABEL]
    value = value_of(
        loss_of(), student=STUDENT, teacher=TEACHER, target=LABEL, alpha=1.0, beta=doubt
    )
    assert value.item() == pytest.approx(0.620981946577, abs=1e-11)


def test_ignored_labels_move_nothing(value_of: Callable[..., Any]) -> None:
    student, teacher = (torch.cat([x, torch.full((1, 3), 7.0)]) for x in (STUDENT, TEACHER))
    more = {"student": student, "teacher": teacher, "target": torch.tensor([0, 1, -100])}
    few = value_of(loss_of(), student=STUDENT, teacher=TEACHER, target=LABEL)
    torch.testing.assert_close(value_of(loss_of(), **more), few)


def test_a_sure_teacher_keeps_its_digits(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.tensor([[30.0, 1, 0]]), torch.tensor([[40.0, 0, 1]])
    tensors = {"student": student, "teacher": teacher, "target": torch.tensor([0])}
    exact = value_of(loss_of(tau=1.0), **{n: t.double() if t.is_floating_point() else t
                                          for n, t in tensors.items()})  # fmt: skip
    assert value_of(loss_of(tau=1.0), **tensors).item() == pytest.approx(exact.item(), rel=1e-5)


def test_a_teacher_with_the_label_alone(value_of: Callable[..., Any]) -> None:
    nothing = -float("inf")
    teacher = torch.tensor([[3.0, nothing, nothing]])
    student = torch.tensor([[1.0, 0.5, 0.2]]).requires_grad_()
    loss = loss_of(tau=1.0)
    value = value_of(loss, student=student, teacher=teacher, target=torch.tensor([0]))
    value.backward()
    expected = -np.log(softmax(student.detach().numpy())[0, 0])
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert student.grad is not None
    assert student.grad.isfinite().all()
