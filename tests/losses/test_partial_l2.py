from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import kdgraph
from kdgraph.losses.partial_l2 import PartialL2
from kdgraph.signals.margin_relu import MarginReLU

LOSS = PartialL2(student="link.student", teacher="link.teacher")


def test_known_value(value_of: Callable[..., Any]) -> None:
    student = torch.tensor([[1.0, -1.0, -3.0, -1.0], [2.0, 0.0, -2.0, 5.0]]).double()
    teacher = torch.tensor([[3.0, 2.0, -1.0, -2.0], [2.0, 0.0, 0.0, -1.0]]).double()
    # both on; on against off; both off, the student further (left out); less far off
    first = (4 + 9 + 0 + 1) / 4
    # equal; equal at 0; below a teacher at 0 (left out); on against off
    second = (0 + 0 + 0 + 36) / 4
    value = value_of(LOSS, student=student, teacher=teacher)
    assert value.item() == pytest.approx((first + second) / 2, rel=1e-12)


def test_it_is_the_squared_error_of_the_rectified_where_both_are_on(
    value_of: Callable[..., Any],
) -> None:
    student, teacher = torch.rand(2, 3, 4, 2, 2).double() + 0.1
    expected = (student - teacher).square().mean()
    torch.testing.assert_close(value_of(LOSS, student=student, teacher=teacher), expected)


def test_the_sum_of_the_paper(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.rand(2, 3, 4, 2, 2).double() + 0.1
    paper = (student - teacher).square().sum((1, 2, 3)).mean()
    mean = value_of(LOSS, student=student, teacher=teacher)
    torch.testing.assert_close(4 * 2 * 2 * mean, paper)
    by_sample = LOSS.model_copy(update={"reduction": "batchmean"})
    torch.testing.assert_close(4 * value_of(by_sample, student=student, teacher=teacher), paper)


def test_no_gradient_where_nothing_is_asked(value_of: Callable[..., Any]) -> None:
    student = torch.tensor([[-3.0, -1.0]], requires_grad=True)
    value_of(LOSS, student=student, teacher=torch.tensor([[-1.0, -3.0]])).backward()
    assert student.grad is not None
    assert student.grad.tolist() == [[0.0, 2.0]]


def test_with_the_margin_through_a_spec() -> None:
    """The overhaul's edge: the teacher behind its margin, the student through a convolution."""
    shape = {"shape": ["B", 2, 1, 1]}
    spec = {
        "kdgraph": 1, "name": "overhaul", "batch": {"x": shape, "y": shape},
        "models": {
            "student": {"input": "x", "taps": {"mid": "output"}},
            "teacher": {"input": "y", "taps": {"mid": "output"}},
        },
        "signals": {"margin": {"use": "margin_relu", "of": "teacher.mid"}},
        "links": {"mid": {"student": "student.mid", "teacher": "margin", "adapter": "conv1x1"}},
        "losses": {"hint": {"use": "partial_l2", "link": "mid"}},
    }  # fmt: skip
    models = {name: torch.nn.Conv2d(2, 2, 1) for name in ("student", "teacher")}
    step = kdgraph.compile(spec, models=models)
    x, y = torch.randn(2, 6, 2, 1, 1)
    out = step(x=x, y=y)
    out.loss.backward()
    with torch.no_grad():
        teacher = models["teacher"](y)
        teacher = MarginReLU(of="teacher.mid").forward(of=teacher)
        student = step.adapters["mid"](models["student"](x))
        gap = (teacher - student) * ((student > teacher) | (teacher > 0))
    assert out.loss.item() == pytest.approx(gap.square().mean().item(), rel=1e-5)
    assert models["teacher"].weight.grad is None
