"""The operators of ``linear_soft_target``: a chunk of tokens after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kdgraph.kernels._chunks import GAIN, Gradients, Head, pieces, products, room
from kdgraph.kernels.base import interpreted
from kdgraph.kernels.sparse_rows import compared_plainly
from kdgraph.losses._math import divergence

Made = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Fill = Callable[[slice, Tensor, Tensor, Tensor, "Tensor | None"], None]


def _chunked(
    student: Head,
    classes: int,
    parts: Sequence[slice],
    tau: Tensor,
    row_weight: Tensor,
    wanted: Sequence[bool],
    fill: Fill,
) -> Made:
    """Goes through the chunks; ``fill`` makes values and gradients of one from its products."""
    hidden, own = student.hidden, student.first(classes)
    rows = hidden.new_zeros(len(hidden), dtype=torch.float32)
    gradients = Gradients(student, classes, wanted)
    rise = row_weight / tau
    # so that gradients in half precision are neither lost nor too large, whatever the weights are
    scale = torch.cat([rise.abs(), rise.new_zeros(1)]).amax() / GAIN
    rise = rise / scale.where(scale != 0, 1)
    buffer = own.buffer(parts)
    for part in parts:
        counts = rise[part]
        states = hidden[part].where((counts != 0).unsqueeze(1), 0)
        made = products(states, own.weight, buffer)
        out = made.view(hidden.dtype)[:, : own.width] if any(wanted) else None
        fill(part, made, counts, rows[part], out)
        if out is not None:
            gradients.add(part, states, out[:, :classes])
    total = (rows * row_weight).where(row_weight != 0, 0).sum()
    return total, rows, scale, gradients.hidden, gradients.weight, gradients.bias


def _by_part(tau: Tensor, part: slice) -> Tensor:
    return tau if len(tau) == 1 else tau[part]


@torch.library.custom_op("kdgraph::linear_soft_target", mutates_args=())
def dense(
    hidden_s: Tensor,
    weight_s: Tensor,
    bias_s: Tensor | None,
    hidden_t: Tensor,
    weight_t: Tensor,
    bias_t: Tensor | None,
    tau_s: Tensor,
    tau_t: Tensor,
    row_weight: Tensor,
    heads: Sequence[float],
    workspace: int,
    wanted: Sequence[bool],
) -> Made:
    student = Head(hidden_s, weight_s, bias_s, *heads[:2])
    classes = min(len(weight_s), len(weight_t))
    own = student.first(classes)
    teacher = Head(hidden_t, weight_t, bias_t, *heads[2:]).first(classes)
    parts = pieces(len(hidden_s), 4 * (own.width + teacher.width), workspace)
    buffer = teacher.buffer(parts)

    def fill(part: slice, s: Tensor, counts: Tensor, rows: Tensor, out: Tensor | None) -> None:
        t = products(hidden_t[part], teacher.weight, buffer)
        taus = _by_part(tau_s, part), _by_part(tau_t, part)
        if s.is_cuda or interpreted():
            from kdgraph.kernels._linear import launch_rows

            launch_rows((s, t), (own, teacher), counts, *taus, rows, out)
            return
        z = own.logits(s)
        log_q = (z / taus[0].unsqueeze(1)).log_softmax(1)
        log_p = (teacher.logits(t) / taus[1].unsqueeze(1)).log_softmax(1)
        rise = (log_q.exp() - log_p.exp()) * own.slope(z)
        _write(divergence(log_p, log_q).sum(1), rise, counts, rows, out)

    return _chunked(student, classes, parts, tau_s, row_weight, wanted, fill)


@torch.library.custom_op("kdgraph::linear_sparse_soft_target", mutates_args=())
def sparse(
    hidden_s: Tensor,
    weight_s: Tensor,
    bias_s: Tensor | None,
    log_p: Tensor,
    ids: Tensor,
    tau: Tensor,
    bucket: bool,
    row_weight: Tensor,
    heads: Sequence[float],
    workspace: int,
    wanted: Sequence[bool],
) -> Made:
    own = Head(hidden_s, weight_s, bias_s, *heads)

    def fill(part: slice, s: Tensor, counts: Tensor, rows: Tensor, out: Tensor | None) -> None:
        teacher = log_p[part], ids[part], _by_part(tau, part)
        if s.is_cuda or interpreted():
            from kdgraph.kernels._linear import launch_sparse_rows

            launch_sparse_rows(s, own, *teacher, bucket, counts, rows, out)
            return
        z = own.logits(s)
        values, rise = compared_plainly(z, *teacher, bucket)
        _write(values, rise * own.slope(z), counts, rows, out)

    parts = pieces(len(hidden_s), 4 * own.width, workspace)
    return _chunked(own, own.classes, parts, tau, row_weight, wanted, fill)


def _write(values: Tensor, rise: Tensor, counts: Tensor, rows: Tensor, out: Tensor | None) -> None:
    """What the programs write: nothing of a row that does not count."""
    keep = counts != 0
    rows[:] = values.where(keep, 0)
    if out is not None:
        rise = rise * counts.unsqueeze(1)
        out[:, : rise.shape[1]] = rise.where(keep.unsqueeze(1), 0)


@dense.register_fake
def _(hidden_s: Tensor, weight_s: Tensor, *others: Any) -> Made:
    return _nothing(hidden_s, weight_s, others[-1])


@sparse.register_fake
def _(hidden_s: Tensor, weight_s: Tensor, *others: Any) -> Made:
    return _nothing(hidden_s, weight_s, others[-1])


def _nothing(hidden: Tensor, weight: Tensor, wanted: Sequence[bool]) -> Made:
    total, scale = (hidden.new_empty((), dtype=torch.float32) for _ in range(2))
    rows = hidden.new_empty(len(hidden), dtype=torch.float32)
    return total, rows, scale, *room(hidden, weight, wanted)


@torch.library.custom_op("kdgraph::scaled", mutates_args=())
def _scaled(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """``x * factor`` in another type, without a copy in between."""
    out = torch.empty_like(x, dtype=dtype)
    return torch.mul(x, factor, out=out)


@_scaled.register_fake
def _(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Made) -> None:
    _, rows, scale, *gradients = output
    ctx.types = [None if x is None else x.dtype for x in inputs[:3]]
    ctx.wanted, ctx.others = inputs[-1], len(inputs) - 3
    ctx.save_for_backward(scale, *gradients)
    ctx.mark_non_differentiable(rows, scale, *gradients)


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    scale, *gradients = ctx.saved_tensors
    made = [
        _scaled(x, grad * scale, dtype) if want else None
        for x, dtype, want in zip(gradients, ctx.types, ctx.wanted, strict=True)
    ]
    return *made, *[None] * ctx.others


for _op in (dense, sparse):
    _op.register_autograd(_backward, setup_context=_setup)
