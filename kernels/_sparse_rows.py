"""Rows of logits against a teacher of whom k classes are known: the Triton programs.

The teacher arrives as logarithms of k + 1 probabilities, in float64, the last that of all classes
that are not listed. What needs the whole row is one number, the log-sum-exp R of the student's
classes that are not listed; all else are k numbers, and those are computed in float64, so that a
student that nearly equals its teacher keeps its digits.

R is taken at temperature tau where each class is tempered, at 1 where the rest is tempered as a
whole. With P and Q the tempered probabilities of the k + 1 classes, the gradient is
``(Q_j - P_j) / tau`` at a listed class, and ``(Q_rest - P_rest) / tau`` times the class's share in
the rest elsewhere.

R is not the difference between the whole row and its listed classes: where the rest has little,
that has no digits. The ids come sorted, so that a block knows which of them lie within it.

R meets the teacher's share of the rest as a difference, 1e-3 for a student that is as close. So it
needs more digits than float32 has: blocks with a class that counts are added up in float64, and of
the others, whose classes round this way and that, the sum is.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdgraph.kernels._device import LOG2E, LOWEST, expm1_rest
from kdgraph.kernels._heads import logits, slope
from kdgraph.kernels.base import on_device
from kdgraph.kernels.sparse_rows import MOST

NEG = tl.constexpr(float("-inf"))
# What is built ahead of time is what runs: no number is compiled in because it happens to be 1.
PLAIN_NUMBERS = ["V", "L", "k", "s0", "s1", "sc", "step", "bucket"]


@triton.jit
def _column(c, sc, ALIGN: tl.constexpr):
    """Where columns are; next to each other where rows are aligned."""
    return c if ALIGN > 1 else c.to(tl.int64) * sc


@triton.jit
def in_two(cold):
    """``log2(e) cold`` as two numbers of float32: what one leaves is an error that sums keep."""
    whole = cold * 1.4426950408889634
    most = whole.to(tl.float32)
    return most, (whole - most.to(tl.float64)).to(tl.float32)


@triton.jit
def rest_of(Z, sc, ALIGN, IDS, k, V, VP, tau, BIAS, factor, cap, HEAD, MOST, BLOCK):
    """R of one row times its temperature, in float64; VP elements may be read, V are classes."""
    lanes = tl.arange(0, MOST)
    ids = tl.load(IDS + lanes, mask=lanes < k, other=V)
    top = tl.full((), NEG, tl.float32)
    total = tl.full((), 0.0, tl.float64)
    first = tl.full((), 0, tl.int32)
    cold = 1.0 / tau.to(tl.float64)
    a, a_rest = in_two(cold)
    for i in range(0, V, BLOCK):
        c = i + tl.arange(0, BLOCK)
        z = tl.load(Z + _column(c, sc, ALIGN), mask=c < VP, other=0.0)
        z = logits(z, BIAS, c, c < VP, c < V, factor, cap, HEAD)
        last = tl.sum((ids < i + BLOCK).to(tl.int32), 0)
        for j in range(first, tl.minimum(last, k)):
            z = tl.where(c == tl.load(IDS + j), NEG, z)
        first = last
        highest = tl.max(z, 0)
        higher = tl.maximum(top, highest)
        shift = tl.where(higher == NEG, 0.0, higher)  # so far nothing but -inf
        # the factor after the difference: its rounding then counts for small numbers only
        x = z - shift
        here = tl.sum(tl.exp2(x * a + tl.maximum(x, LOWEST) * a_rest).to(tl.float64), 0)
        total *= tl.exp((top - shift).to(tl.float64) * cold)
        if tl.exp2((highest - shift) * a) * 256.0 > (total + here).to(tl.float32):
            here = tl.sum(tl.exp((z.to(tl.float64) - shift.to(tl.float64)) * cold), 0)
        total += here
        top = higher
    shift = tl.where(top == NEG, 0.0, top).to(tl.float64)
    return shift + tl.log(total) * tau.to(tl.float64)


@triton.jit
def listed(Z, sc, IDS, LOG_P, k, V, BIAS, factor, cap, HEAD, MOST):
    """Of one row: the ids, which of them count, the logits there as they came, and ``log P``."""
    lanes = tl.arange(0, MOST)
    ids = tl.load(IDS + lanes, mask=lanes < k, other=V)
    here = ids < V
    z = tl.load(Z + ids.to(tl.int64) * sc, mask=here, other=0.0)
    z = logits(z, BIAS, ids, here, here, factor, cap, HEAD)
    return ids, here, z, tl.load(LOG_P + lanes, mask=lanes < k, other=NEG)


@triton.jit
def compared(z, log_p, log_p_rest, rest, tau):
    """The divergence over k + 1 classes, then ``Q - P`` of the k, and of the rest."""
    cold = 1.0 / tau.to(tl.float64)
    u, u_rest = z.to(tl.float64) * cold, rest * cold
    top = tl.maximum(tl.max(u, 0), u_rest)
    shift = tl.where(top == NEG, 0.0, top)
    whole = shift + tl.log(tl.sum(tl.exp(u - shift), 0) + tl.exp(u_rest - shift))
    log_q = tl.where(u == NEG, NEG, u - whole)
    log_q_rest = tl.where(u_rest == NEG, NEG, u_rest - whole)
    loss, rise = _apart(log_p, log_q)
    loss_rest, rise_rest = _apart(log_p_rest, log_q_rest)
    return tl.sum(loss, 0) + loss_rest, rise, rise_rest


@triton.jit
def _apart(log_p, log_q):
    """``p (log p - log q) - p + q`` and ``q - p``; where p is 0 it is q, both times."""
    p, q = tl.exp(log_p), tl.exp(log_q)
    gap = tl.where(p == 0.0, 0.0, log_q - log_p)
    close = (tl.abs(gap) < 0.5) & (p != 0.0)
    near = tl.where(close, gap, 0.0)
    curve = expm1_rest(near)
    return (
        tl.where(close, p * curve, q - p - p * gap),
        tl.where(close, p * (near + curve), q - p),
    )


@triton.jit
def spread(Z, sc, ALIGN, G, V, VP, tau, rest, up, BIAS, factor, cap, HEAD, OVER, BLOCK):
    """Writes ``up exp(z / tau - R)``, by the product, to all of one row.

    With ``OVER`` G lies over the first half of Z, or all of it: what a block writes lies before
    what the next ones read, but in the first block not before what its own threads read.
    """
    shift = rest.to(tl.float32)
    shift = tl.where(shift == NEG, 0.0, shift)
    a = LOG2E / tau
    for i in range(0, V, BLOCK):
        c = i + tl.arange(0, BLOCK)
        z = tl.load(Z + _column(c, sc, ALIGN), mask=c < VP, other=0.0)
        z = logits(z, BIAS, c, c < VP, c < V, factor, cap, HEAD)
        g = up * tl.exp2((z - shift) * a) * slope(z, factor, cap, HEAD)
        if OVER:
            tl.debug_barrier()
        tl.store(G + c, tl.where(c < V, g, 0.0).to(G.dtype.element_ty), mask=c < VP)


@triton.jit
def zeros(G, V, VP, BLOCK):
    """Zeros in all of one row."""
    for i in range(0, V, BLOCK):
        c = i + tl.arange(0, BLOCK)
        tl.store(G + c, tl.zeros((BLOCK,), G.dtype.element_ty), mask=c < VP)


@triton.jit(do_not_specialize=PLAIN_NUMBERS)
def sparse_rows(
    Z, IDS, LOG_P, TAU, LOSS, REST, V, L, k, s0, s1, sc, step, bucket,
    ALIGN: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The divergence of each row, and its R."""
    row = tl.program_id(0).to(tl.int64)
    Z += (row // L) * s0 * ALIGN + (row % L) * s1 * ALIGN
    V *= ALIGN
    IDS += row * k
    LOG_P += row * (k + 1)
    tau = tl.load(TAU + row * step)
    each = tl.where(bucket != 0, 1.0, tau)
    rest = rest_of(Z, sc, ALIGN, IDS, k, V, V, each, Z, 1.0, 0.0, False, MOST, BLOCK)
    _, _, z, log_p = listed(Z, sc, IDS, LOG_P, k, V, Z, 1.0, 0.0, False, MOST)
    loss, _, _ = compared(z, log_p, tl.load(LOG_P + k), rest, tau)
    tl.store(LOSS + row, loss.to(tl.float32))
    tl.store(REST + row, rest)


@triton.jit(do_not_specialize=PLAIN_NUMBERS)
def sparse_gradient(
    Z, IDS, LOG_P, TAU, REST, GRAD, G, V, L, k, s0, s1, sc, step, bucket,
    ALIGN: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of each row, G [B, L, V] contiguous; 0 where that of the value is 0."""
    row = tl.program_id(0).to(tl.int64)
    Z += (row // L) * s0 * ALIGN + (row % L) * s1 * ALIGN
    V *= ALIGN
    G += row * V
    grad = tl.load(GRAD + row)
    if grad == 0.0:
        zeros(G, V, V, BLOCK)
    else:
        IDS += row * k
        LOG_P += row * (k + 1)
        tau = tl.load(TAU + row * step)
        each = tl.where(bucket != 0, 1.0, tau)
        rest = tl.load(REST + row)
        ids, here, z, log_p = listed(Z, sc, IDS, LOG_P, k, V, Z, 1.0, 0.0, False, MOST)
        _, rise, rise_rest = compared(z, log_p, tl.load(LOG_P + k), rest, tau)
        up = grad / tau
        own = up * rise.to(tl.float32)
        spread(
            Z, sc, ALIGN, G, V, V, each, rest, up * rise_rest.to(tl.float32), Z, 1.0, 0.0,
            False, False, BLOCK,
        )  # fmt: skip
        tl.debug_barrier()  # the listed classes were written to, by other threads
        tl.store(G + ids, own.to(G.dtype.element_ty), mask=here)


BLOCK, NUM_WARPS = 2048, 4


class Build(NamedTuple):
    """What is compiled of each of the two programs."""

    dtype: torch.dtype
    align: int
    """Elements of 16 bytes where rows start at and have a multiple of them; 1: any strides."""


BUILDS = tuple(
    Build(dtype, align)
    for dtype in (torch.float32, torch.float16, torch.bfloat16)
    for align in (16 // dtype.itemsize, 1)
)


def launch_rows(
    z: Tensor, log_p: Tensor, ids: Tensor, tau: Tensor, bucket: bool
) -> tuple[Tensor, Tensor]:
    """``sparse_rows`` over student logits [B, L, V]; gives the values and R, each [B * L]."""
    rows = z.shape[0] * z.shape[1]
    loss = torch.empty(rows, dtype=torch.float32, device=z.device)
    rest = torch.empty(rows, dtype=torch.float64, device=z.device)
    if rows:
        align, numbers = _numbers(z, ids, tau, bucket)
        with on_device(z):
            sparse_rows[(rows,)](
                z, ids, log_p, tau, loss, rest, *numbers,
                ALIGN=align, MOST=MOST, BLOCK=BLOCK, num_warps=NUM_WARPS,
            )  # fmt: skip
    return loss, rest


def launch_gradient(
    z: Tensor, log_p: Tensor, ids: Tensor, tau: Tensor, rest: Tensor, grad: Tensor, bucket: bool
) -> Tensor:
    """``sparse_gradient``; [B, L, V] in the dtype of the logits."""
    out = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    if rest.numel():
        align, numbers = _numbers(z, ids, tau, bucket)
        with on_device(z):
            sparse_gradient[(rest.numel(),)](
                z, ids, log_p, tau, rest, grad.contiguous(), out, *numbers,
                ALIGN=align, MOST=MOST, BLOCK=BLOCK, num_warps=NUM_WARPS,
            )  # fmt: skip
    return out


def _numbers(z: Tensor, ids: Tensor, tau: Tensor, bucket: bool) -> tuple[int, tuple[int, ...]]:
    (_, length, classes), (s0, s1, sc) = z.shape, z.stride()
    assert ids.shape[-1] <= MOST
    assert ids.is_contiguous()
    assert tau.is_contiguous()
    align = 16 // z.element_size()
    if sc != 1 or z.data_ptr() % 16 or any(n % align for n in (classes, s0, s1)):
        align = 1
    numbers = (
        classes // align,
        length,
        ids.shape[-1],
        s0 // align,
        s1 // align,
        sc,
        int(tau.numel() > 1),
        int(bucket),
    )
    return align, numbers
