from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.soft_target import SoftTarget
from kdgraph.spec.shapes import ShapeMismatch

LOGITS = True
VARIANTS: list[dict[str, Any]] = [{}, {"scale": False}, {"reduction": "element"}]

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)


def loss_of(**keys: Any) -> SoftTarget:
    return SoftTarget(student="student.logits", teacher="teacher.logits", **keys)


def kl_rows(
    student: np.ndarray, teacher: np.ndarray, t: float, s: float | None = None
) -> np.ndarray:
    """KL over the last dimension, computed apart from the code under test."""

    def log_softmax(x: np.ndarray) -> np.ndarray:
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    log_p, log_q = log_softmax(teacher / t), log_softmax(student / (s or t))
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


@pytest.mark.parametrize(
    ("tau", "plain", "scaled"),
    [
        (1.0, 0.517993238250, 0.517993238250),
        (2.0, 0.153226203936, 0.612904815744),
        (3.0, 0.069189392266, 0.622704530398),
        (4.0, 0.038811371661, 0.620981946577),
        (20.0, 0.00149409037050, 0.597636148201),
    ],
)
def test_known_numbers(
    value_of: Callable[..., Any], tau: float, plain: float, scaled: float
) -> None:
    tensors = {"student": STUDENT, "teacher": TEACHER, "tau": tau}
    assert value_of(loss_of(), **tensors).item() == pytest.approx(scaled, abs=1e-11)
    assert value_of(loss_of(scale=False), **tensors).item() == pytest.approx(plain, abs=1e-11)


def test_reductions(value_of: Callable[..., Any]) -> None:
    rows = 16 * kl_rows(STUDENT.numpy(), TEACHER.numpy(), 4)
    expected = {"mean": rows.mean(), "sum": rows.sum(), "batchmean": rows.mean(),
                "element": rows.mean() / 3}  # fmt: skip
    for reduction, number in expected.items():
        value = value_of(loss_of(reduction=reduction), student=STUDENT, teacher=TEACHER)
        assert value.item() == pytest.approx(number, rel=1e-12)
    assert expected["element"] == pytest.approx(0.206993982192, abs=1e-11)


def test_renormalised_over_selected_classes(value_of: Callable[..., Any]) -> None:
    teacher = torch.tensor([[2, 9, 1, 0], [0, -3, 1, 3]], dtype=torch.float64)[:, [2, 0]]
    student = torch.tensor([[0.5, -0.5], [0.1, 0.3]], dtype=torch.float64)
    value = value_of(loss_of(tau=1.0), student=student, teacher=teacher)
    assert 0.1 * value.item() == pytest.approx(0.0312132316739692, rel=1e-12)


def test_one_row_at_temperature_4(value_of: Callable[..., Any]) -> None:
    teacher = torch.tensor([[2, 1, 0]], dtype=torch.float64)
    student = torch.tensor([[0.5, 0.2, -0.1]], dtype=torch.float64, requires_grad=True)
    value = value_of(loss_of(), student=student, teacher=teacher)
    value.backward()
    assert value.item() == pytest.approx(0.1602436863676873, rel=1e-12)
    gradient = torch.tensor([[-0.242427864501, 0.024853501151, 0.21757436335]], dtype=torch.float64)
    torch.testing.assert_close(student.grad, gradient, rtol=0, atol=1e-11)


def test_a_temperature_for_each_side(value_of: Callable[..., Any]) -> None:
    loss = loss_of(tau=4.0, tau_student=1.0)
    expected = 16 * kl_rows(STUDENT.numpy(), TEACHER.numpy(), 4, 1).mean()
    student = STUDENT.clone().requires_grad_()
    value = value_of(loss, student=student, teacher=TEACHER)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda s: value_of(loss, student=s, teacher=TEACHER), student)


def test_tokens_and_maps(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 2, 3, 5, 4).double()  # [B, H, W, K]
    rows = 16 * kl_rows(student.numpy(), teacher.numpy(), 4)
    flat = {"student": student.flatten(1, 2), "teacher": teacher.flatten(1, 2)}
    maps = {n: x.permute(0, 3, 1, 2) for n, x in (("student", student), ("teacher", teacher))}
    for tensors in (flat, maps):
        assert value_of(loss_of(), **tensors).item() == pytest.approx(rows.mean())
        batchmean = value_of(loss_of(reduction="batchmean"), **tensors)
        assert batchmean.item() == pytest.approx(rows.sum() / 2)


def test_padding_is_not_counted(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 2, 3, 4).double()
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    rows = 16 * kl_rows(student.numpy(), teacher.numpy(), 4)[mask.numpy() == 1]
    tensors = {"student": student, "teacher": teacher, "mask": mask}
    assert value_of(loss_of(), **tensors).item() == pytest.approx(rows.sum() / 3)
    batchmean = value_of(loss_of(reduction="batchmean"), **tensors)
    assert batchmean.item() == pytest.approx(rows.sum() / 2)


def test_a_temperature_and_a_weight_for_each_sample(value_of: Callable[..., Any]) -> None:
    tau, weight = np.array([1.0, 3.0]), np.array([0.5, 2.0])
    rows = [
        t**2 * kl_rows(s, z, t)
        for t, s, z in zip(tau, STUDENT.numpy(), TEACHER.numpy(), strict=True)
    ]
    plain, weighted = value_of(
        loss_of(), student=STUDENT, teacher=TEACHER,
        tau=torch.from_numpy(tau), row_weight=torch.from_numpy(weight),
    )  # fmt: skip
    assert plain.item() == pytest.approx(np.mean(rows))
    assert weighted.item() == pytest.approx(np.mean(weight * rows))


def test_classes_that_only_the_student_masks_cost_infinitely_much(
    value_of: Callable[..., Any],
) -> None:
    student = STUDENT.clone()
    student[0, 0] = -float("inf")
    assert value_of(loss_of(), student=student, teacher=TEACHER) == float("inf")


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
    exact = kl_rows(student.double().numpy(), teacher.double().numpy(), 20).mean()
    value = value_of(loss_of(scale=False, tau=20.0), student=student, teacher=teacher)
    assert value.item() == pytest.approx(exact, rel=1e-2)


def test_mismatches_say_what_would_fit() -> None:
    rule = loss_of().shapes
    with pytest.raises(ShapeMismatch, match="number of classes") as caught:
        rule(student=(2, 10), teacher=(2, 100))
    assert caught.value.adapters == ("signal select_classes",)
    with pytest.raises(ShapeMismatch, match="size") as caught:
        rule(student=(2, 10, 8, 8), teacher=(2, 10, 4, 4))
    assert caught.value.adapters == ("resize",)
    with pytest.raises(ShapeMismatch, match="equal shapes"):
        rule(student=(2, 10), teacher=(2, 4, 10))
    with pytest.raises(ShapeMismatch, match="dimensions"):
        rule(student=(2,), teacher=(2,))
