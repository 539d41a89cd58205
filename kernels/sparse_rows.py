"""Soft targets of a teacher that lists k classes per row, from raw student logits."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from kdgraph.kernels.base import Kernel, interpreted, register_kernel
from kdgraph.losses._math import divergence
from kdgraph.losses._sparse import NOTHING, others_of, student_side, teacher_side
from kdgraph.losses.base import Loss, per_sample
from kdgraph.losses.sparse_soft_target import SparseSoftTarget
from kdgraph.spec.shapes import Shape

MOST = 256
"""How many classes per row a program takes."""


def sparse_rows(
    student: Tensor, values: Tensor, ids: Tensor, tau: Tensor | float, tail: str
) -> Tensor:
    """``KL(p || q)`` of each row, as ``losses.sparse_soft_target`` has it, without ``tau**2``.

    The backward pass recomputes from the logits and one number per row. That moves as many bytes
    as storing a gradient and scaling it later, keeps nothing of the size of the logits, and lets
    a retained graph be used twice.

    Args:
        student: raw logits [B, V] or [B, L, V] in float32, float16 or bfloat16, any strides.
        values: log-probabilities of the listed classes, [B, k] or [B, L, k]; -inf lists nothing.
        ids: their numbers, which differ within a row; one that no class has makes the row nan.
        tau: a number, a 0-dim tensor, or one per sample.
        tail: ``bucket`` or ``zero``.

    Returns:
        [B] or [B, L], float32; differentiable with respect to the logits alone, once.
    """
    log_p, at = teacher_of(values, ids, tau, tail, student.shape[-1])
    z = student if student.dim() == 3 else student.unsqueeze(0)
    tau = tau_by_row(tau, student)
    rows: Tensor
    rows, _ = _rows(z, log_p, at, tau, tail == "bucket")
    rows = rows.reshape(student.shape[:-1])
    if tail == "zero":
        rows = rows.where((values != NOTHING).any(-1), 0)
    return rows


@torch.no_grad()
def teacher_of(
    values: Tensor, ids: Tensor, tau: Tensor | float, tail: str, classes: int
) -> tuple[Tensor, Tensor]:
    """What the programs read of a teacher: a row for each row of logits.

    Returns:
        ``log P`` [N, k + 1] in float64 and ids [N, k] in int32, sorted by id; where nothing is
        listed the id is the number of classes.
    """
    wide_tau = tau.double() if isinstance(tau, Tensor) else tau
    log_p = teacher_side(values.double(), wide_tau, tail, classes).flatten(0, -2)
    ids, listed = ids.flatten(0, -2).long(), (values != NOTHING).flatten(0, -2)
    inside = (ids >= 0) & (ids < classes)
    log_p = log_p.where((inside | ~listed).all(-1, keepdim=True), float("nan"))
    ids, order = ids.where(listed & inside, classes).sort(-1)
    return torch.cat([log_p[:, :-1].gather(-1, order), log_p[:, -1:]], -1), ids.int().contiguous()


def tau_by_row(tau: Tensor | float, student: Tensor) -> Tensor:
    """[1], or one for each of the N rows, in float32."""
    if not isinstance(tau, Tensor):
        return torch.full((1,), float(tau), device=student.device)
    tau = tau.detach().float()
    if tau.dim() == 0:
        return tau.reshape(1)
    rows = tau.reshape(-1, *[1] * (student.dim() - 2)).expand(student.shape[:-1])
    return rows.reshape(-1).contiguous()  # a view of one dimension keeps its stride


@torch.library.custom_op("kdgraph::sparse_rows", mutates_args=())
def _rows(
    student: Tensor, log_p: Tensor, ids: Tensor, tau: Tensor, bucket: bool
) -> tuple[Tensor, Tensor]:
    if interpreted():
        return _rows_launched(student, log_p, ids, tau, bucket)
    rows, _ = compared_plainly(student.float().flatten(0, 1), log_p, ids, tau, bucket)
    return rows, log_p.new_zeros(len(log_p))


def compared_plainly(
    z: Tensor, log_p: Tensor, ids: Tensor, tau: Tensor, bucket: bool
) -> tuple[Tensor, Tensor]:
    """By the reference's formulas: the values [N], and tau times their gradient [N, V]."""
    own = log_p[:, :-1].float().where(ids < z.shape[1], NOTHING)
    at = ids.clamp(max=z.shape[1] - 1).long()
    log_q = student_side(z, own, at, tau, "bucket" if bucket else "zero")
    rise = log_q.exp() - log_p.exp().float()
    others = others_of(z, own, at)
    others = others if bucket else others / tau.unsqueeze(1)
    some = (others != NOTHING).any(1, keepdim=True)
    spread = others.where(some, 0).softmax(1) * rise[:, -1:]
    # one class more, where ids that list nothing go
    wider = torch.cat([spread, spread[:, :1]], 1).scatter(1, ids.long(), rise[:, :-1])
    return divergence(log_p.float(), log_q).sum(1), wider[:, :-1]


def _rows_launched(*given: Any) -> tuple[Tensor, Tensor]:
    from kdgraph.kernels._sparse_rows import launch_rows

    return launch_rows(*given)


_rows.register_kernel("cuda")(_rows_launched)


@_rows.register_fake
def _(student: Tensor, log_p: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    rows = log_p.shape[0]
    return log_p.new_empty(rows, dtype=torch.float32), log_p.new_empty(rows)


@torch.library.custom_op("kdgraph::sparse_rows_gradient", mutates_args=())
def _gradient(
    student: Tensor,
    log_p: Tensor,
    ids: Tensor,
    tau: Tensor,
    rest: Tensor,
    grad: Tensor,
    bucket: bool,
) -> Tensor:
    if interpreted():
        return _gradient_launched(student, log_p, ids, tau, rest, grad, bucket)
    _, rise = compared_plainly(student.float().flatten(0, 1), log_p, ids, tau, bucket)
    out = (rise * (grad / tau).unsqueeze(1)).where((grad != 0).unsqueeze(1), 0)
    return out.to(student.dtype).reshape(student.shape)


def _gradient_launched(*given: Any) -> Tensor:
    from kdgraph.kernels._sparse_rows import launch_gradient

    return launch_gradient(*given)


_gradient.register_kernel("cuda")(_gradient_launched)


@_gradient.register_fake
def _(student: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(student, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.bucket = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _gradient(*ctx.saved_tensors, grad, ctx.bucket), None, None, None, None


_rows.register_autograd(_backward, setup_context=_setup)


@register_kernel("sparse_rows")
class SparseRows(Kernel):
    """One pass over the logits forward, one backward; the k listed classes in float64.

    Of ``sparse_soft_target`` with ``tail: bucket`` or ``zero``; ``renormalise`` reads k logits of
    a row and needs no kernel.
    """

    losses = ("sparse_soft_target",)
    sides = ("student",)

    def declines(self, loss: Loss, **shapes: Shape) -> str | None:
        if cast(SparseSoftTarget, loss).tail == "renormalise":
            return "with tail: renormalise it reads no more than the listed logits"
        if shapes["ids"][-1] > MOST:
            return f"{shapes['ids'][-1]} listed classes are more than {MOST}"
        return None

    def run(self, loss: Loss, **inputs: Any) -> Tensor:
        own = cast(SparseSoftTarget, loss)
        rows = sparse_rows(tail=own.tail, **inputs)
        return rows * per_sample(inputs["tau"], rows) ** 2 if own.scale else rows
