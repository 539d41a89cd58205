from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kdgraph.losses.consistency import Consistency

LOGITS = True
MASKED = ("student",)  # the value is then inf, and rightly so
VARIANTS = [{}, {"distance": "l2"}, {"tau": 2.0}]
LOSS = Consistency(student="student.logits", other="again.logits")
L2 = LOSS.model_copy(update={"distance": "l2"})

ONE = [(0.1, 0.5, -0.2), (0.3, 0.2, 0.1), (0.6, -0.1, 0.0)]
TWO = [(0.0, 0.4, -0.1), (0.2, 0.4, 0.0), (0.5, 0.0, 0.1)]


def further(student: Tensor) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(2)
    other = torch.randn(student.shape, generator=random, dtype=torch.float64)
    return {"other": other.to(student.dtype)}


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_known_value(dtype: torch.dtype, rel: float, value_of: Any) -> None:
    one, two = (torch.tensor([x], dtype=dtype) for x in (ONE, TWO))
    for sides in ({"student": one, "other": two}, {"student": two, "other": one}):
        assert float(value_of(LOSS, **sides)) == pytest.approx(0.0063741196744353, rel=rel)


def test_masked_mean_is_over_the_whole_batch(value_of: Any) -> None:
    """Five frames count, three of the first utterance and two of the second."""
    one, two = (torch.tensor(x, dtype=torch.float64) for x in ([ONE, TWO], [TWO, ONE]))
    mask = torch.tensor([[True, True, True], [True, True, False]])
    value = float(value_of(LOSS, student=one, other=two, mask=mask))
    assert value == pytest.approx(0.00665495343698748, rel=1e-8)


def test_other_numbers_by_plain_python(value_of: Any) -> None:
    p, q = [0.5, 0.25, 0.25], [0.1, 0.2, 0.7]
    student, other = (torch.tensor([x], dtype=torch.float64).log() for x in (p, q))
    kl = [a * math.log(a / b) for a, b in zip(p, q, strict=True)]
    back = [b * math.log(b / a) for a, b in zip(p, q, strict=True)]
    value = float(value_of(LOSS, student=student, other=other))
    assert value == pytest.approx((sum(kl) + sum(back)) / 2, rel=1e-12)
    value = float(value_of(L2, student=student, other=other))
    assert value == pytest.approx(0.16 + 0.0025 + 0.2025, rel=1e-12)


@pytest.mark.parametrize("loss", [LOSS, L2], ids=["symmetric_kl", "l2"])
def test_gradient_reaches_both_sides(loss: Any, value_of: Any) -> None:
    sides = [torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def run(student: Tensor, other: Tensor) -> Any:
        return value_of(loss, student=student, other=other)

    assert torch.autograd.gradcheck(run, sides)
    assert all(g.any() for g in torch.autograd.grad(run(*sides), sides))


@pytest.mark.parametrize("loss", [LOSS, L2], ids=["symmetric_kl", "l2"])
def test_agreement_is_exactly_nothing(loss: Any, value_of: Any) -> None:
    sides = [torch.randn(2, 3, 4).mul_(0).add_(torch.arange(4.0)) for _ in range(2)]
    for side in sides:
        side[0, 0, 2] = -float("inf")  # impossible on both sides
        side.requires_grad_()
    value = value_of(loss, student=sides[0], other=sides[1])
    value.backward()
    assert value.item() == 0
    assert not any(s.grad.any() for s in sides if s.grad is not None)


def test_impossible_on_one_side_alone_is_infinite_without_nan(value_of: Any) -> None:
    student = torch.tensor([[0.0, 1.0, -float("inf")]], requires_grad=True)
    other = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    value = value_of(LOSS, student=student, other=other)
    value.backward()
    assert value.item() == math.inf
    assert all(s.grad is not None and s.grad.isfinite().all() for s in (student, other))


def test_underflow_passes_no_nan(value_of: Any) -> None:
    """A probability of exactly 0 in float32 that is possible nevertheless."""
    student = torch.tensor([[0.0, 200.0]], requires_grad=True)
    other = torch.tensor([[0.0, 1.0]], requires_grad=True)
    value = value_of(LOSS, student=student, other=other)
    value.backward()
    assert value.isfinite()
    assert all(s.grad is not None and s.grad.isfinite().all() for s in (student, other))
