from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.relation import Relation

VARIANTS: list[dict[str, Any]] = [{}, {"distance": 0.0}, {"angle": 0.0}]

STUDENT = torch.tensor([[0, 0], [3, 4], [6, 0]], dtype=torch.float64)
TEACHER = torch.tensor([[0, 0], [1, 0], [0, 2]], dtype=torch.float64)


def loss_of(**keys: Any) -> Relation:
    return Relation(student="link.student", teacher="link.teacher", **keys)


def smooth_l1(x: np.ndarray) -> Any:
    return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5).mean()


def relations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances and cosines, one pair and one triple after the other."""
    B = len(x)
    distance, cosine = np.zeros((B, B)), np.zeros((B, B, B))
    for i in range(B):
        for j in range(B):
            distance[i, j] = np.linalg.norm(x[i] - x[j])
            for k in range(B):
                if i not in (j, k):
                    a, b = x[j] - x[i], x[k] - x[i]
                    cosine[i, j, k] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return distance / (distance.sum() / (B * (B - 1))), cosine


def test_known_numbers(value_of: Callable[..., Any]) -> None:
    tensors = {"student": STUDENT, "teacher": TEACHER}
    for keys, number in (
        ({"angle": 0.0}, 0.0279368329695255),
        ({"distance": 0.0, "angle": 1.0}, 0.017579546567412),
        ({}, 0.0630959261043495),
    ):
        assert value_of(loss_of(**keys), **tensors).item() == pytest.approx(number, rel=1e-12)


def test_pair_by_pair(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(5, 3, 2, 2).double(), 3 * torch.randn(5, 7).double()
    d_s, c_s = relations(student.flatten(1).numpy())
    d_t, c_t = relations(teacher.numpy())
    expected = 25 * smooth_l1(d_s - d_t) + 50 * smooth_l1(c_s - c_t)
    value = value_of(loss_of(distance=25.0, angle=50.0), student=student, teacher=teacher)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_one_sample_has_no_relations(value_of: Callable[..., Any]) -> None:
    student = torch.randn(1, 4, requires_grad=True)
    value = value_of(loss_of(), student=student, teacher=torch.randn(1, 4))
    value.backward()
    assert value == 0
    assert torch.equal(student.grad, torch.zeros(1, 4))


def test_coinciding_students_get_no_gradient_from_each_other(
    value_of: Callable[..., Any],
) -> None:
    student = torch.tensor([[1.0, 2.0], [1.0, 2.0]], requires_grad=True)
    value = value_of(loss_of(), student=student, teacher=torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    value.backward()
    assert value.isfinite()
    assert torch.equal(student.grad, torch.zeros(2, 2))


def test_close_samples_far_from_the_origin_keep_their_digits(
    value_of: Callable[..., Any],
) -> None:
    student = (1000 + torch.randn(6, 8)).float()
    teacher = torch.randn(6, 8)
    exact = value_of(loss_of(), student=student.double(), teacher=teacher.double())
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


def both_forms(student: torch.Tensor, teacher: torch.Tensor, **keys: Any) -> list[list[Any]]:
    """Value and gradient of the plain form and of ``gram``, in the precision of the student."""
    results = []
    for form in ("plain", "gram"):
        loss, leaf = loss_of(**keys).in_form(form), student.clone().requires_grad_()
        shapes = {"student": tuple(leaf.shape), "teacher": tuple(teacher.shape)}
        value = loss.module(**shapes)(student=leaf, teacher=teacher)
        results.append([value, *torch.autograd.grad(value, leaf)])
    return results


@pytest.mark.parametrize("keys", VARIANTS)
def test_inner_products_give_the_same(keys: dict[str, Any]) -> None:
    plain, gram = both_forms(torch.randn(7, 3, 2, 2), 3 * torch.randn(7, 5), **keys)
    torch.testing.assert_close(gram, plain, rtol=1e-5, atol=1e-7)


def test_a_large_batch_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdgraph.losses._pairs._BLOCK", 200)
    plain, gram = both_forms(torch.randn(11, 4), torch.randn(11, 6))  # one sample at a time
    torch.testing.assert_close(gram, plain, rtol=1e-5, atol=1e-7)


def test_derivative_of_the_gram_form(value_of: Callable[..., Any]) -> None:
    student = torch.randn(5, 4).double().requires_grad_()
    teacher = torch.randn(5, 3).double()
    loss = loss_of().in_form("gram")
    assert torch.autograd.gradcheck(lambda s: value_of(loss, student=s, teacher=teacher), student)


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_close_samples_keep_their_digits_in_inner_products(gap: float, offset: float) -> None:
    student, teacher = torch.randn(8, 32) + offset, torch.randn(8, 16)
    student[1] = student[0] + gap * torch.randn(32)
    exact = both_forms(student.double(), teacher.double())[0]
    value, gradient = both_forms(student, teacher)[1]
    assert value.item() == pytest.approx(exact[0].item(), rel=1e-5)
    assert (gradient - exact[1]).abs().max() < 1e-5 * exact[1].abs().max()


def test_samples_that_coincide_in_inner_products() -> None:
    student, teacher = torch.randn(6, 500), torch.randn(6, 40)
    student[2] = student[0]
    teacher[5] = teacher[1]
    for offset in (0.0, 1000.0):
        plain, gram = both_forms(student + offset, teacher)
        torch.testing.assert_close(gram[0], plain[0], rtol=1e-5, atol=0)
        torch.testing.assert_close(gram[1], plain[1], rtol=1e-4, atol=1e-7)
    (_, gradient) = both_forms(torch.ones(3, 4), torch.randn(3, 4))[1]
    assert not gradient.any()
