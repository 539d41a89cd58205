from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdgraph.losses.spatial_correlation import SpatialCorrelation
from kdgraph.spec.shapes import ShapeMismatch

forms = pytest.mark.parametrize("form", ["plain", "delta_sigma"])


def loss_of(form: str = "plain") -> SpatialCorrelation:
    loss = SpatialCorrelation(student="link.student", teacher="link.teacher")
    return loss.in_form(form)


def cosines(x: np.ndarray) -> Any:
    """Between the columns of [C, N], apart from the code under test."""
    unit = x / np.sqrt((x**2).sum(0))
    return unit.T @ unit


def value_and_gradient(s: np.ndarray, t: np.ndarray) -> tuple[Any, np.ndarray]:
    """Of one sample's ``||A_s - A_t||**2 / N**2`` with respect to s [C, N], in float64."""
    length = np.sqrt((s**2).sum(0))
    unit, gap = s / length, cosines(s) - cosines(t)
    slope = 4 * unit @ gap / gap.shape[0] ** 2
    return (gap**2).mean(), (slope - unit * (unit * slope).sum(0)) / length


@forms
def test_known_number(value_of: Callable[..., Any], form: str) -> None:
    student = torch.tensor([[[0.5, 1, 1], [1, -1, 0]]], dtype=torch.float64)  # [B, C, N]
    teacher = torch.tensor([[[1, 0, 2], [0, 1, 1]]], dtype=torch.float64)
    value = value_of(loss_of(form), student=student.unsqueeze(2), teacher=teacher.unsqueeze(2))
    assert value.item() == pytest.approx(0.081676548437, abs=1e-12)
    tokens = value_of(loss_of(form), student=student.mT, teacher=teacher.mT)
    assert tokens.item() == pytest.approx(value.item(), rel=1e-12)


def test_channels_may_differ(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(3, 4, 2, 5).double(), torch.randn(3, 7, 2, 5).double()
    loss_of().shapes(student=(3, 4, 2, 5), teacher=(3, 7, 2, 5))
    expected = [
        ((cosines(s) - cosines(t)) ** 2).mean()
        for s, t in zip(student.flatten(2).numpy(), teacher.flatten(2).numpy(), strict=True)
    ]
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-12)
    shapes = {"student": (3, 4, 2, 5), "teacher": (3, 7, 2, 5)}
    assert loss_of().forms(**shapes) == {}
    assert "4 and 7 channels" in (loss_of().why_plain(**shapes) or "")


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="equal positions") as caught:
        loss_of().shapes(student=(2, 8, 4, 4), teacher=(2, 16, 2, 2))
    assert caught.value.adapters == ("resize",)


@forms
def test_a_pixel_of_zeros_is_like_no_other(value_of: Callable[..., Any], form: str) -> None:
    student, teacher = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    student[..., 0, 0] = 0
    student.requires_grad_()
    a = torch.zeros(4, 4)
    a[1:, 1:] = torch.from_numpy(cosines(student.detach().flatten(2)[0, :, 1:].numpy()))
    b = torch.from_numpy(cosines(teacher.flatten(2)[0].numpy()))
    value = value_of(loss_of(form), student=student, teacher=teacher)
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, (a - b).square().mean())
    assert not gradient[..., 0, 0].any()
    assert gradient[..., 1, 1].all()
    teacher[..., 0, 0] = 0
    b[0] = b[:, 0] = 0
    both = value_of(loss_of(form), student=student, teacher=teacher)
    torch.testing.assert_close(both, (a - b).square().mean())


@pytest.mark.parametrize("gap", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
def test_a_close_student_keeps_its_digits(value_of: Callable[..., Any], gap: float) -> None:
    teacher = torch.randn(1, 16, 8, 8)
    student = (teacher + gap * torch.randn(1, 16, 8, 8)).requires_grad_()
    exact, slope = value_and_gradient(
        student.detach().double().flatten(2)[0].numpy(), teacher.double().flatten(2)[0].numpy()
    )
    value = value_of(loss_of("delta_sigma"), student=student, teacher=teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(exact, rel=2e-6)
    found = gradient.double().flatten(2)[0].numpy()
    assert np.abs(found - slope).max() < 5e-6 * np.abs(slope).max()


def test_lengths_that_differ_widely(value_of: Callable[..., Any]) -> None:
    for scale in (1e-8, 1e8):
        teacher = torch.randn(2, 4, 3, 3)
        student = scale * (teacher + 0.1 * torch.randn(2, 4, 3, 3))
        exact = value_of(loss_of(), student=student.double(), teacher=teacher.double())
        value = value_of(loss_of("delta_sigma"), student=student, teacher=teacher)
        assert value.item() == pytest.approx(exact.item(), rel=1e-4)


@forms
def test_masks_and_weights(value_of: Callable[..., Any], form: str) -> None:
    student, teacher = torch.randn(2, 3, 4, 3, 3).double()
    rows = [value_of(loss_of(), student=student[i : i + 1], teacher=teacher[i : i + 1])
            for i in range(3)]  # fmt: skip
    plain, weighted = value_of(
        loss_of(form), student=student, teacher=teacher,
        mask=torch.tensor([1, 0, 1]), row_weight=torch.tensor([2.0, 3.0, 4.0]),
    )  # fmt: skip
    torch.testing.assert_close(plain, (rows[0] + rows[2]) / 2)
    torch.testing.assert_close(weighted, rows[0] + 2 * rows[2])


def test_derivatives_of_the_product_form(value_of: Callable[..., Any]) -> None:
    sides = [torch.randn(2, 3, 2, 2).double().requires_grad_() for _ in range(2)]

    def value(student: Tensor, teacher: Tensor) -> Any:
        return value_of(loss_of("delta_sigma"), student=student, teacher=teacher)

    assert torch.autograd.gradcheck(value, sides)
    assert torch.autograd.gradgradcheck(value, sides)
