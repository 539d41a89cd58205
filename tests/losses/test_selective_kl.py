from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.selective_kl import SelectiveKL

LOGITS = True
ZERO_AT_EQUAL = False
VARIANTS: list[dict[str, Any]] = [{}, {"variant": "code", "tau": 2.0}]

STUDENT = torch.tensor([[0.5, 0.2, -0.1], [0.1, 0.3, 0]], dtype=torch.float64)
TEACHER = torch.tensor([[2, 1, 0], [0, 3, 1]], dtype=torch.float64)
RIGHT = torch.tensor([1.0, 0.0], dtype=torch.float64)  # for the labels 0 and 2


def further(student: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"trust": torch.tensor([1.0, 2.0, 0.9], dtype=torch.float64)[: len(student)]}


def loss_of(**keys: Any) -> SelectiveKL:
    return SelectiveKL(student="student.logits", teacher="teacher.logits", trust="trust", **keys)


@pytest.mark.parametrize(
    ("epoch", "code", "clean"),
    [
        (1, 2.001518217549080, 0.3525439818643),
        (61, 0.9953974043712479, 0.2855606253101),
        (95, 0.638757102261476, 0.2570045627791),
        (200, -0.03859686472290, 0.1873563262660),
    ],
)
def test_known_numbers(value_of: Callable[..., Any], epoch: int, code: float, clean: float) -> None:
    trust = (1 + RIGHT) * 0.9 ** (epoch // 30)
    tensors = {"student": STUDENT, "teacher": TEACHER, "trust": trust}
    assert value_of(loss_of(variant="code"), **tensors).item() == pytest.approx(code, abs=1e-12)
    assert value_of(loss_of(), **tensors).item() == pytest.approx(clean, abs=1e-12)


def test_known_gradient_of_the_program(value_of: Callable[..., Any]) -> None:
    student = STUDENT.clone().requires_grad_()
    trust = (1 + RIGHT) * 0.9**3
    value_of(loss_of(variant="code"), student=student, teacher=TEACHER, trust=trust).backward()
    assert student.grad is not None
    expected = [-0.242856992894, 0.083781921119, 0.159075071775]
    np.testing.assert_allclose(student.grad[0].numpy(), expected, rtol=1e-10)


def test_the_program_counts_a_correct_teacher_four_times(value_of: Callable[..., Any]) -> None:
    grads = []
    for trust in (1.0, 2.0):
        student = STUDENT[:1].clone().requires_grad_()
        tensors = {"teacher": TEACHER[:1], "trust": torch.tensor([trust]).double()}
        value_of(loss_of(variant="code"), student=student, **tensors).backward()
        assert student.grad is not None
        grads.append(student.grad)
    torch.testing.assert_close(grads[1], 4 * grads[0])


def test_no_trust_is_no_loss(value_of: Callable[..., Any]) -> None:
    for variant in ("clean", "code"):
        tensors = {"student": STUDENT, "teacher": TEACHER, "trust": torch.zeros(2)}
        assert value_of(loss_of(variant=variant), **tensors) == 0


def test_each_token_may_have_its_own(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 2, 3, 5).double()
    trust = torch.rand(2, 3).double()
    value = value_of(loss_of(), student=student, teacher=teacher, trust=trust)
    flat = {"student": student.flatten(0, 1), "teacher": teacher.flatten(0, 1)}
    torch.testing.assert_close(value, value_of(loss_of(), **flat, trust=trust.flatten()))
