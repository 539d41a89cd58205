"""Rows of float32 products with a head, a chunk of them at a time: the Triton programs.

The products of a chunk lie in buffers whose rows are a multiple of 16 apart, so that every
vocabulary is read 128 bits at a time; what lies behind the classes is never looked at. The gradient
is written over the student's products, in half precision over the first half of each row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdgraph.kernels._chunks import Head
from kdgraph.kernels._device import LN2, LOG2E, expm1_rest
from kdgraph.kernels._heads import logits, slope
from kdgraph.kernels._sparse_rows import compared, listed, rest_of, spread, zeros
from kdgraph.kernels.base import on_device
from kdgraph.kernels.sparse_rows import MOST

NEG = tl.constexpr(float("-inf"))
# what may be 0 or 1 and is not to be compiled in
PLAIN_NUMBERS = ["V", "k", "step", "step_s", "step_t", "bucket", "grad"]


@triton.jit
def _joined(top, total, x, a):
    """The maximum, and the sum of ``2**(a (x - maximum))``, with a block more."""
    higher = tl.maximum(top, tl.max(x, 0))
    shift = tl.where(higher == NEG, 0.0, higher)  # so far nothing but -inf
    total = total * tl.exp2((top - shift) * a) + tl.sum(tl.exp2((x - shift) * a), 0)
    return higher, total


@triton.jit(do_not_specialize=PLAIN_NUMBERS)
def linear_rows(
    S, T, BIAS_S, BIAS_T, WEIGHT, TAU_S, TAU_T, LOSS, G, V, VP, ss, st, sg, step_s, step_t,
    factor_s, cap_s, factor_t, cap_t, grad, HEAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``KL(p || q)`` of each row; with ``grad`` the gradient by the products times ``WEIGHT``.

    A row of weight 0 is not read: its value is 0 and its gradient too. ``WEIGHT`` holds the
    factor ``1 / tau`` already.
    """
    row = tl.program_id(0).to(tl.int64)
    S += row * ss
    T += row * st
    G += row * sg
    weight = tl.load(WEIGHT + row)
    if weight == 0.0:
        tl.store(LOSS + row, 0.0)
        if grad:
            zeros(G, V, VP, BLOCK)
    else:
        a_s = LOG2E / tl.load(TAU_S + row * step_s)
        a_t = LOG2E / tl.load(TAU_T + row * step_t)
        top_s = tl.full((), NEG, tl.float32)
        top_t = tl.full((), NEG, tl.float32)
        sum_s = tl.full((), 0.0, tl.float32)
        sum_t = tl.full((), 0.0, tl.float32)
        for i in range(0, V, BLOCK):
            c = i + tl.arange(0, BLOCK)
            s = tl.load(S + c, mask=c < VP, other=0.0)
            t = tl.load(T + c, mask=c < VP, other=0.0)
            s = logits(s, BIAS_S, c, c < VP, c < V, factor_s, cap_s, HEAD)
            t = logits(t, BIAS_T, c, c < VP, c < V, factor_t, cap_t, HEAD)
            top_s, sum_s = _joined(top_s, sum_s, s, a_s)
            top_t, sum_t = _joined(top_t, sum_t, t, a_t)
        low_s, low_t = tl.log2(sum_s), tl.log2(sum_t)
        other = a_s - a_t  # 0 at equal temperatures: what follows is then a difference of logits
        apart = (top_s - top_t) * a_s + top_t * other + (low_s - low_t)
        loss = tl.zeros((BLOCK,), tl.float32)
        for i in range(0, V, BLOCK):
            c = i + tl.arange(0, BLOCK)
            s = tl.load(S + c, mask=c < VP, other=0.0)
            t = tl.load(T + c, mask=c < VP, other=0.0)
            s = logits(s, BIAS_S, c, c < VP, c < V, factor_s, cap_s, HEAD)
            t = logits(t, BIAS_T, c, c < VP, c < V, factor_t, cap_t, HEAD)
            q = tl.exp2((s - top_s) * a_s - low_s)
            p = tl.exp2((t - top_t) * a_t - low_t)
            gap = ((s - t) * a_s + t * other - apart) * LN2  # log q - log p
            gap = tl.where(p == 0.0, 0.0, gap)
            close = (tl.abs(gap) < 0.5) & (p != 0.0)
            near = tl.where(close, gap, 0.0)
            curve = expm1_rest(near)
            # p (log p - log q) - p + q, and q - p
            loss += tl.where(close, p * curve, q - p - p * gap)
            if grad:
                rise = tl.where(close, p * (near + curve), q - p)
                g = weight * rise * slope(s, factor_s, cap_s, HEAD)
                g = tl.where(c < V, g, 0.0)
                tl.debug_barrier()  # the first block lies over what its own threads read
                tl.store(G + c, g.to(G.dtype.element_ty), mask=c < VP)
        tl.store(LOSS + row, tl.sum(loss, 0))


@triton.jit(do_not_specialize=PLAIN_NUMBERS)
def linear_sparse_rows(
    S, IDS, LOG_P, BIAS, WEIGHT, TAU, LOSS, G, V, VP, k, ss, sg, step, bucket, factor, cap, grad,
    HEAD: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """As ``linear_rows``, against a teacher of whom k classes are known (``_sparse_rows``)."""
    row = tl.program_id(0).to(tl.int64)
    S += row * ss
    G += row * sg
    IDS += row * k
    LOG_P += row * (k + 1)
    weight = tl.load(WEIGHT + row)
    if weight == 0.0:
        tl.store(LOSS + row, 0.0)
        if grad:
            zeros(G, V, VP, BLOCK)
    else:
        tau = tl.load(TAU + row * step)
        each = tl.where(bucket != 0, 1.0, tau)
        rest = rest_of(S, 1, 4, IDS, k, V, VP, each, BIAS, factor, cap, HEAD, MOST, BLOCK)
        ids, here, z, log_p = listed(S, 1, IDS, LOG_P, k, V, BIAS, factor, cap, HEAD, MOST)
        loss, rise, rise_rest = compared(z, log_p, tl.load(LOG_P + k), rest, tau)
        tl.store(LOSS + row, loss.to(tl.float32))
        if grad:
            up = weight * rise_rest.to(tl.float32)
            own = weight * rise.to(tl.float32) * slope(z, factor, cap, HEAD)
            tl.debug_barrier()  # the listed logits were read, by other threads
            spread(S, 1, 4, G, V, VP, each, rest, up, BIAS, factor, cap, HEAD, True, BLOCK)
            tl.debug_barrier()  # the listed classes were written to, by other threads
            tl.store(G + ids, own.to(G.dtype.element_ty), mask=here)


BLOCK, NUM_WARPS, SPARSE_WARPS = 4096, 8, 16
HEADS = (False, True)
GRADIENTS = (torch.float32, torch.float16, torch.bfloat16)


def launch_rows(
    products: tuple[Tensor, Tensor], heads: tuple[Head, Head], weight: Tensor,
    tau_s: Tensor, tau_t: Tensor, loss: Tensor, out: Tensor | None,
) -> None:  # fmt: skip
    """``linear_rows`` over the buffers of a chunk; ``out`` is a view of the student's."""
    (s, t), (student, teacher) = products, heads
    plain = student.plain and teacher.plain
    assert tau_s.is_contiguous()
    assert tau_t.is_contiguous()
    with on_device(s):
        linear_rows[(len(s),)](
            s, t, *(_bias(h, plain) for h in heads), weight, tau_s, tau_t, loss,
            s if out is None else out, student.classes, s.shape[1], s.stride(0), t.stride(0),
            0 if out is None else out.stride(0), int(len(tau_s) > 1), int(len(tau_t) > 1),
            student.factor, student.cap, teacher.factor, teacher.cap, int(out is not None),
            HEAD=not plain, BLOCK=BLOCK, num_warps=NUM_WARPS,
        )  # fmt: skip


def launch_sparse_rows(
    s: Tensor, student: Head, log_p: Tensor, ids: Tensor, tau: Tensor, bucket: bool,
    weight: Tensor, loss: Tensor, out: Tensor | None,
) -> None:  # fmt: skip
    """``linear_sparse_rows`` over the buffer of a chunk; ``out`` is a view of it."""
    assert ids.shape[1] <= MOST
    assert ids.is_contiguous()
    assert tau.is_contiguous()
    with on_device(s):
        linear_sparse_rows[(len(s),)](
            s, ids, log_p, _bias(student, student.plain), weight, tau, loss,
            s if out is None else out, student.classes, s.shape[1], ids.shape[1], s.stride(0),
            0 if out is None else out.stride(0), int(len(tau) > 1), int(bucket),
            student.factor, student.cap, int(out is not None),
            HEAD=not student.plain, MOST=MOST, BLOCK=BLOCK,
            num_warps=SPARSE_WARPS,
        )  # fmt: skip


def _bias(head: Head, plain: bool) -> Tensor:
    """What a program reads as bias, as wide as the buffers; where it reads none, anything."""
    if plain:
        return head.weight
    bias = head.weight.new_zeros(head.width, dtype=torch.float32)
    if head.bias is not None:
        bias[: head.classes] = head.bias
    return bias
