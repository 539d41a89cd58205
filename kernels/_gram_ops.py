"""The gap between two Gram matrices as operators: one node of a graph each, on any device.

They keep what the backward reads of the Gram matrices, two or three of them on the smaller side,
because making them anew costs as much as the backward itself; no features are kept but the inputs.
On the CPU, outside Triton's interpreter, they are the reference loss and keep nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdgraph.kernels._layout import made_like
from kdgraph.kernels.base import interpreted
from kdgraph.losses._gram import gram_gap
from kdgraph.losses._math import SHORT, unit


def gap(student: Tensor, teacher: Tensor, *, cosine: bool = True) -> Tensor:
    """``||N(s) - N(t)||_F**2`` for each sample, [B] float32, of rows [B, M, K].

    ``N`` holds the cosines between rows, else the products of rows, each of its rows divided by
    its length. Cosines are compared on the smaller of both sides, [M, M] or [K, K], where K is
    the same. Differentiable once. Sides of different types are widened first.
    """
    if student.dtype != teacher.dtype:
        student, teacher = student.float(), teacher.float()
    M, K = student.shape[1:]
    if cosine and K < M and teacher.shape[2] == K:
        value: Tensor = gap_across(student, teacher)[0]
    else:
        value = gap_within(student, teacher, cosine)[0]
    return value


def _reference(x: Tensor) -> bool:
    return x.device.type == "cpu" and not interpreted()


def _delta(student: Tensor, teacher: Tensor) -> bool:
    """Whether the difference of Gram matrices is made of the difference of the features."""
    return student.dtype == torch.float32 and student.shape[2] == teacher.shape[2]


def _kept(x: Tensor, number: int, size: int, lines: int) -> tuple[Tensor, Tensor]:
    """What an operator keeps of x [B, M, K], empty in shape where it is the reference."""
    B, M = (0, 0) if _reference(x) else x.shape[:2]
    size = 0 if _reference(x) else size
    full = torch.float32
    return (
        x.new_empty(number, B, size, size, dtype=full),
        x.new_empty(lines, B, M, dtype=full),
    )


@torch.library.custom_op("kdgraph::gram_gap", mutates_args=())
def gap_within(student: Tensor, teacher: Tensor, cosine: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The gap on the side [M, M]: [B]; the Gram matrices, and numbers of each row."""
    if not _reference(student):
        return _within(student, teacher, cosine)
    s, t = student.float(), teacher.float()
    if cosine:
        value = gram_gap(s, t)
    else:
        value = (unit(s @ s.mT, 2) - unit(t @ t.mT, 2)).square().sum((1, 2))
    return value, *_kept(student, 3 if _delta(student, teacher) else 2, student.shape[1], 6)


def _within(student: Tensor, teacher: Tensor, cosine: bool) -> tuple[Tensor, Tensor, Tensor]:
    from kdgraph.kernels._within import gaps, gram_matrices

    gram = gram_matrices(student, teacher, _delta(student, teacher))
    value, stats = gaps(gram, cosine)
    return value, gram, stats


gap_within.register_kernel("cuda")(_within)


@gap_within.register_fake
def _(student: Tensor, teacher: Tensor, cosine: bool) -> tuple[Tensor, Tensor, Tensor]:
    value = student.new_empty(student.shape[0], dtype=torch.float32)
    return value, *_kept(student, 3 if _delta(student, teacher) else 2, student.shape[1], 6)


@torch.library.custom_op("kdgraph::gram_gap_backward", mutates_args=())
def within_backward(
    student: Tensor,
    teacher: Tensor,
    gram: Tensor,
    stats: Tensor,
    grad: Tensor,
    cosine: bool,
    of_teacher: bool,
) -> Tensor:
    """The gradient for one side."""
    if not _reference(student):
        return _within_backward(student, teacher, gram, stats, grad, cosine, of_teacher)
    return _slope(student, teacher, grad, cosine, of_teacher)


def _within_backward(
    student: Tensor,
    teacher: Tensor,
    gram: Tensor,
    stats: Tensor,
    grad: Tensor,
    cosine: bool,
    of_teacher: bool,
) -> Tensor:
    from kdgraph.kernels._within import gradient

    x = teacher if of_teacher else student
    return gradient(x, gram, stats, grad.contiguous(), cosine, of_teacher)


within_backward.register_kernel("cuda")(_within_backward)


@within_backward.register_fake
def _(student: Tensor, teacher: Tensor, *given: Any) -> Tensor:
    return made_like(teacher if given[-1] else student)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    student, teacher, *cosine = inputs
    ctx.options = cosine
    ctx.save_for_backward(student, teacher, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward_of(backward: Any) -> Any:
    def run(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        sides = [
            backward(*ctx.saved_tensors, grad, *ctx.options, of_teacher) if needed else None
            for of_teacher, needed in zip((False, True), ctx.needs_input_grad[:2], strict=True)
        ]
        return *sides, *(None for _ in ctx.options)

    return run


gap_within.register_autograd(_backward_of(within_backward), setup_context=_setup)


@torch.library.custom_op("kdgraph::gram_gap_across", mutates_args=())
def gap_across(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gap of cosines on the side [K, K]: [B]; its products, and numbers of each row."""
    if not _reference(student):
        return _across(student, teacher)
    value = gram_gap(student.float(), teacher.float(), across=True)
    return value, *_kept(student, 3, student.shape[2], 4)


def _across(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from kdgraph.kernels._across import products

    return products(student, teacher)


gap_across.register_kernel("cuda")(_across)


@gap_across.register_fake
def _(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value = student.new_empty(student.shape[0], dtype=torch.float32)
    return value, *_kept(student, 3, student.shape[2], 4)


@torch.library.custom_op("kdgraph::gram_gap_across_backward", mutates_args=())
def across_backward(
    student: Tensor, teacher: Tensor, pqr: Tensor, stats: Tensor, grad: Tensor, of_teacher: bool
) -> Tensor:
    """The gradient for one side."""
    if not _reference(student):
        return _across_backward(student, teacher, pqr, stats, grad, of_teacher)
    return _slope(student, teacher, grad, True, of_teacher)


def _across_backward(
    student: Tensor, teacher: Tensor, pqr: Tensor, stats: Tensor, grad: Tensor, of_teacher: bool
) -> Tensor:
    from kdgraph.kernels._across import gradient

    return gradient(student, teacher, pqr, stats, grad.contiguous(), of_teacher)


across_backward.register_kernel("cuda")(_across_backward)


@across_backward.register_fake
def _(student: Tensor, teacher: Tensor, *given: Any) -> Tensor:
    return made_like(teacher if given[-1] else student)


gap_across.register_autograd(_backward_of(across_backward), setup_context=_setup)


def _slope(
    student: Tensor, teacher: Tensor, grad: Tensor, cosine: bool, of_teacher: bool
) -> Tensor:
    """The gradient in plain operations: below autograd an operator cannot ask for it."""
    side, other = (teacher, student) if of_teacher else (student, teacher)
    x, y, grad = side.float(), other.float(), grad.reshape(-1, 1, 1)
    if cosine:
        u, v = unit(x, 2), unit(y, 2)
        out = _through_unit(4 * (u @ u.mT - v @ v.mT) @ u, x)
    else:
        g = x @ x.mT
        slope = _through_unit(2 * (unit(g, 2) - unit(y @ y.mT, 2)), g)
        out = (slope + slope.mT) @ x
    return made_like(side).copy_((grad * out).where(grad != 0, 0))


def _through_unit(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient for rows from that for ``unit`` of them."""
    u, square = unit(x, 2), x.square().sum(2, keepdim=True)
    inverse = square.where(square > SHORT**2, float("inf")).rsqrt()
    return (grad - u * (u * grad).sum(2, keepdim=True)) * inverse
