from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.reverse_kl import ReverseKL

LOGITS = True
MASKED = ("student", "both")
VARIANTS: list[dict[str, Any]] = [{}, {"tau": 4.0, "scale": False}]

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)


def loss_of(**keys: Any) -> ReverseKL:
    return ReverseKL(student="student.logits", teacher="teacher.logits", **keys)


def kl_rows(p: np.ndarray, q: np.ndarray) -> Any:
    """KL(softmax(p) || softmax(q)) over the last dimension, apart from the code under test."""

    def log_softmax(x: np.ndarray) -> Any:
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    log_p, log_q = log_softmax(p), log_softmax(q)
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0, 20.0])
def test_the_student_weighs_the_classes(value_of: Callable[..., Any], tau: float) -> None:
    plain = kl_rows(STUDENT.numpy() / tau, TEACHER.numpy() / tau).mean()
    tensors = {"student": STUDENT, "teacher": TEACHER, "tau": tau}
    assert value_of(loss_of(), **tensors).item() == pytest.approx(tau**2 * plain, rel=1e-12)
    assert value_of(loss_of(scale=False), **tensors).item() == pytest.approx(plain, rel=1e-12)


def test_known_numbers(value_of: Callable[..., Any]) -> None:
    for tau, number in ((1.0, 0.5908350718727609), (4.0, 0.6242299026199303)):
        value = value_of(loss_of(tau=tau), student=STUDENT, teacher=TEACHER)
        assert value.item() == pytest.approx(number, abs=1e-11)


def test_gradient_in_closed_form(value_of: Callable[..., Any]) -> None:
    student = torch.randn(1, 6).double().requires_grad_()
    teacher = torch.randn(1, 6).double()
    value_of(loss_of(tau=3.0), student=student, teacher=teacher).backward()
    q, p = (x.detach().div(3).softmax(1) for x in (student, teacher))
    gap = q.log() - p.log()
    torch.testing.assert_close(student.grad, 3 * q * (gap - (q * gap).sum()))


def test_a_temperature_for_each_side(value_of: Callable[..., Any]) -> None:
    expected = 16 * kl_rows(STUDENT.numpy() / 2, TEACHER.numpy() / 4).mean()
    value = value_of(loss_of(tau=4.0, tau_student=2.0), student=STUDENT, teacher=TEACHER)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_tokens_maps_and_padding(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 2, 3, 5, 4).double()  # [B, H, W, K]
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).unsqueeze(2).expand(2, 3, 5)
    rows = kl_rows(student.numpy(), teacher.numpy())
    flat = {"student": student.flatten(1, 2), "teacher": teacher.flatten(1, 2)}
    maps = {n: x.permute(0, 3, 1, 2) for n, x in (("student", student), ("teacher", teacher))}
    for tensors in (flat, maps):
        assert value_of(loss_of(), **tensors).item() == pytest.approx(rows.mean())
    value = value_of(loss_of(), **maps, mask=mask)
    assert value.item() == pytest.approx(rows[mask.numpy() == 1].mean())


def test_classes_that_only_the_teacher_masks_cost_infinitely_much(
    value_of: Callable[..., Any],
) -> None:
    teacher = TEACHER.clone()
    teacher[0, 0] = -float("inf")
    assert value_of(loss_of(), student=STUDENT, teacher=teacher) == float("inf")


def test_classes_that_both_mask_are_as_if_absent(value_of: Callable[..., Any]) -> None:
    nothing = torch.full((2, 1), -float("inf"))
    more = {
        "student": torch.cat([STUDENT, nothing], 1), "teacher": torch.cat([TEACHER, nothing], 1)
    }  # fmt: skip
    few = value_of(loss_of(), student=STUDENT, teacher=TEACHER)
    torch.testing.assert_close(value_of(loss_of(), **more), few)


def test_a_nearly_equal_student_keeps_its_digits(value_of: Callable[..., Any]) -> None:
    teacher = 3 * torch.randn(4, 1000)
    student = teacher + 0.01 * torch.randn(4, 1000)
    exact = kl_rows(student.double().numpy() / 20, teacher.double().numpy() / 20).mean()
    value = value_of(loss_of(scale=False, tau=20.0), student=student, teacher=teacher)
    assert value.item() == pytest.approx(exact, rel=1e-2)
