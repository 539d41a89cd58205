from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.fsp import FSP

REFS = {
    "student": "student.early", "student_to": "student.late",
    "teacher": "teacher.early", "teacher_to": "teacher.late",
}  # fmt: skip


def further(student: torch.Tensor) -> dict[str, torch.Tensor]:
    later = torch.cat([student, student.flip(0)], 1 if student.dim() == 4 else -1) + 0.5
    return {"student_to": later, "teacher_to": later.clone()}


def loss_of() -> FSP:
    return FSP.model_validate({"use": "fsp", **REFS})


def test_against_numpy(value_of: Callable[..., Any]) -> None:
    tensors = {
        "student": torch.randn(2, 3, 2, 2).double(),
        "student_to": torch.randn(2, 4, 2, 2).double(),
        "teacher": torch.randn(2, 3, 5, 1).double(),
        "teacher_to": torch.randn(2, 4, 5, 1).double(),
    }

    def flow(first: torch.Tensor, second: torch.Tensor) -> Any:
        return np.einsum("bchw,bdhw->bcd", first.numpy(), second.numpy()) / first[0, 0].numel()

    loss_of().shapes(**{n: tuple(t.shape) for n, t in tensors.items()})
    gap = flow(tensors["student"], tensors["student_to"]) - flow(
        tensors["teacher"], tensors["teacher_to"]
    )
    value = value_of(loss_of(), **tensors)
    assert value.item() == pytest.approx(np.mean(gap**2), rel=1e-12)


def test_both_student_layers_learn(value_of: Callable[..., Any]) -> None:
    student, later, teacher = (torch.randn(2, 3, 4).double() for _ in range(3))
    student.requires_grad_()
    later.requires_grad_()
    value = value_of(
        loss_of(), student=student, student_to=later, teacher=teacher, teacher_to=teacher
    )
    grads = torch.autograd.grad(value, [student, later])
    assert all(g.abs().min() > 0 for g in grads)
