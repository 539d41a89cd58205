from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.csc import CSC
from kdgraph.spec.shapes import ShapeMismatch

VARIANTS: list[dict[str, Any]] = [{}, {"spatial": 0.0}, {"channel": 0.0}]

forms = pytest.mark.parametrize("form", ["plain", "delta_sigma"])


def loss_of(form: str = "plain", **keys: Any) -> CSC:
    return CSC(student="link.student", teacher="link.teacher", **keys).in_form(form)


def cosines(x: np.ndarray) -> Any:
    """Between the rows of a matrix, apart from the code under test."""
    unit = x / np.sqrt((x**2).sum(1, keepdims=True))
    return unit @ unit.T


@forms
def test_known_numbers(value_of: Callable[..., Any], form: str) -> None:
    tensors = {
        "student": torch.tensor([[[0.5, 1, 1], [1, -1, 0]]], dtype=torch.float64).mT,
        "teacher": torch.tensor([[[1, 0, 2], [0, 1, 1]]], dtype=torch.float64).mT,
    }
    for keys, number in (
        ({"channel": 0.0}, 0.081676548437),
        ({"spatial": 0.0}, 0.376848976278),
        ({}, 0.458525524715),
        ({"spatial": 2.0, "channel": 0.5}, 2 * 0.0816765484370 + 0.5 * 0.376848976278),
    ):
        assert value_of(loss_of(form, **keys), **tensors).item() == pytest.approx(number, abs=1e-11)


@forms
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 12, 2, 4)])
def test_matrix_by_matrix(value_of: Callable[..., Any], form: str, shape: tuple[int, ...]) -> None:
    student, teacher = torch.randn(shape).double(), torch.randn(shape).double()
    samples = []
    for s, t in zip(student.flatten(2).numpy(), teacher.flatten(2).numpy(), strict=True):
        spatial = ((cosines(s.T) - cosines(t.T)) ** 2).mean()
        samples.append(spatial + ((cosines(s) - cosines(t)) ** 2).mean())
    value = value_of(loss_of(form), student=student, teacher=teacher)
    assert value.item() == pytest.approx(np.mean(samples), rel=1e-11)


@forms
def test_patches(value_of: Callable[..., Any], form: str) -> None:
    student, teacher = torch.randn(2, 1, 2, 4, 6).double()
    a, b = (
        np.array([x[0, c, i : i + 2, j : j + 3].flatten().numpy()
                  for c in range(2) for i in (0, 2) for j in (0, 3)])
        for x in (student, teacher)
    )  # fmt: skip
    value = value_of(loss_of(form, spatial=0.0, patches=2), student=student, teacher=teacher)
    assert value.item() == pytest.approx(((cosines(a) - cosines(b)) ** 2).mean(), rel=1e-11)


def test_maps_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="2 x 2 patches"):
        loss_of(patches=2).shapes(student=(2, 8, 4, 5), teacher=(2, 8, 4, 5))
    with pytest.raises(ShapeMismatch, match="patches"):
        loss_of(patches=2).shapes(student=(2, 4, 8), teacher=(2, 4, 8))
    loss_of(patches=2).shapes(student=(2, 8, 4, 6), teacher=(2, 8, 4, 6))


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-4])
def test_a_close_student_keeps_its_digits(value_of: Callable[..., Any], gap: float) -> None:
    teacher = torch.randn(2, 8, 6, 6)
    student = teacher + gap * torch.randn(2, 8, 6, 6)
    results = []
    for form, dtype in (("plain", torch.float64), ("delta_sigma", torch.float32)):
        leaf = student.to(dtype).requires_grad_()
        value = value_of(loss_of(form), student=leaf, teacher=teacher.to(dtype))
        (gradient,) = torch.autograd.grad(value, leaf)
        results.append((value.item(), gradient.double()))
    (exact, slope), (found, gradient) = results
    assert found == pytest.approx(exact, rel=1e-4)  # the channel part is the direct one
    assert (gradient - slope).abs().max() < 1e-3 * slope.abs().max()


def test_masks_keep_working(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 3, 4, 3, 3)
    mask = torch.tensor([0, 1, 1])
    rest = value_of(loss_of(), student=student[1:], teacher=teacher[1:])
    value = value_of(loss_of("delta_sigma"), student=student, teacher=teacher, mask=mask)
    torch.testing.assert_close(value, rest)
