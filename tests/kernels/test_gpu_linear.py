"""``sparse_rows`` and ``linear_soft_target`` on a GPU, against float64 on the same GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdgraph.kernels._chunks import Head
from kdgraph.kernels.linear_soft_target import linear_soft_target, linear_sparse_soft_target
from kdgraph.kernels.sparse_rows import sparse_rows
from kdgraph.losses._math import divergence
from kdgraph.losses._sparse import student_side, teacher_side

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
PRECISION = [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)]


def normal(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, device="cuda") * scale).to(dtype)


def same(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert (got.double() - want).norm() <= tolerance * want.norm()


@pytest.mark.parametrize(("dtype", "grad"), PRECISION)
@pytest.mark.parametrize("classes", [1000, 50257])
@pytest.mark.parametrize("tail", ["bucket", "zero"])
def test_sparse_rows(tail: str, classes: int, dtype: torch.dtype, grad: float) -> None:
    torch.manual_seed(0)
    student = normal(64, classes, dtype=dtype, scale=5).requires_grad_()
    values, ids = normal(64, classes, scale=5).log_softmax(1).topk(50)
    rows = sparse_rows(student, values, ids, 2.0, tail)
    rows.sum().backward()
    wide = student.detach().double().requires_grad_()
    log_p = teacher_side(values.double(), 2.0, tail, classes)
    wanted = divergence(log_p, student_side(wide, values, ids, 2.0, tail)).sum(1)
    wanted.sum().backward()
    same(rows, wanted, 1e-5)
    assert student.grad is not None
    assert wide.grad is not None
    same(student.grad, wide.grad, grad)


@pytest.mark.parametrize(("dtype", "grad"), PRECISION)
@pytest.mark.parametrize(("own", "its"), [(1000, 1000), (50257, 50304)])
@pytest.mark.parametrize("cap", [0.0, 30.0])
def test_linear(cap: float, own: int, its: int, dtype: torch.dtype, grad: float) -> None:
    torch.manual_seed(0)
    weights = [normal(n, 64, dtype=dtype, scale=5 / 8).requires_grad_() for n in (own, its)]
    states = [normal(300, 64, dtype=dtype).requires_grad_() for _ in range(2)]
    heads = [Head(h, w, None, 1.0, cap) for h, w in zip(states, weights, strict=True)]
    counts = torch.rand(300, device="cuda") * (torch.rand(300, device="cuda") > 0.2)
    workspace = 4 * (own + its) * 128
    total, _ = linear_soft_target(heads[0], heads[1], 2.0, None, counts, workspace)
    total.backward()
    wide = [x.detach().double().requires_grad_() for x in (states[0], weights[0])]
    sides = [(wide[0], wide[1]), (states[1].detach().double(), weights[1].detach().double())]
    logits = [h @ w[: min(own, its)].T for h, w in sides]
    logits = [cap * (z / cap).tanh() if cap else z for z in logits]
    log_q, log_p = ((z / 2).log_softmax(1) for z in logits)
    wanted = (divergence(log_p, log_q).sum(1) * counts).sum()
    wanted.backward()
    same(total, wanted, 1e-5)
    for found, exact in zip((states[0], weights[0]), wide, strict=True):
        assert found.grad is not None
        assert exact.grad is not None
        same(found.grad, exact.grad, grad)


@pytest.mark.parametrize(("dtype", "grad"), PRECISION)
def test_linear_with_a_sparse_teacher(dtype: torch.dtype, grad: float) -> None:
    torch.manual_seed(0)
    weight = normal(50257, 64, dtype=dtype, scale=5 / 8).requires_grad_()
    states = normal(300, 64, dtype=dtype).requires_grad_()
    bias = normal(50257).requires_grad_()
    values, ids = normal(300, 50257, scale=5).log_softmax(1).topk(50)
    head = Head(states, weight, bias, 1.0, 0.0)
    total, _ = linear_sparse_soft_target(head, values, ids, 2.0, "bucket", None, 4 * 50272 * 128)
    total.backward()
    wide = [x.detach().double().requires_grad_() for x in (states, weight, bias)]
    log_q = student_side(wide[0] @ wide[1].T + wide[2], values, ids, 2.0, "bucket")
    log_p = teacher_side(values.double(), 2.0, "bucket", 50257)
    wanted = divergence(log_p, log_q).sum()
    wanted.backward()
    same(total, wanted, 1e-5)
    for found, exact in zip((states, weight, bias), wide, strict=True):
        assert found.grad is not None
        assert exact.grad is not None
        same(found.grad, exact.grad, grad)
