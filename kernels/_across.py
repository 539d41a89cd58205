"""The gap between matrices of cosines, [M, M], from [K, K] products alone.

Of ``U`` and ``V``, the directions of the rows, ``D = U - V`` and ``U`` are formed from the features
as they are loaded; ``across`` makes P = D^T D, Q = D^T U, R = U^T U. With S = U + V, ``D^T S`` is
``2 Q - P`` and ``S^T S`` is ``4 R - 2 Q - 2 Q^T + P``, and

    ||U U^T - V V^T||**2 = (<D^T D, S^T S> + <D^T S, (D^T S)^T>) / 2.

The gradient for U is ``4 (U Q + D (R - Q))``, that for V ``-4 (V (Q - P) + D (R - Q^T))``: two
products, ``back``; then ``project`` takes what lies along the row out and divides by its length.
Nothing of the size [M, M] exists, and D keeps the digits of a student close to its teacher.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdgraph.kernels._gram import (
    Config,
    config,
    corner,
    directions,
    dot,
    inverse,
    launch,
    load,
    operand,
    precision,
    put,
    rounded,
    split,
    store,
)
from kdgraph.kernels._layout import Side, alignment, laid, made_like, sizes

# By the type of the operands: "tf32" for float16, and "tf32x3" for float32. What
# stands at the end is of those that spill registers otherwise: a compute capability, or features
# on Hopper that are aligned to nothing.
ACROSS = {
    "bfloat16": Config({"BT": 64, "BM": 32}, 8, 3),
    "bfloat16_80": Config({"BT": 32, "BM": 32}, 4, 2),
    "tf32": Config({"BT": 64, "BM": 32}, 8, 2),
    "tf32_80": Config({"BT": 32, "BM": 32}, 4, 2),
    "tf32x3": Config({"BT": 64, "BM": 16}, 8, 2),
    "tf32x3_odd": Config({"BT": 64, "BM": 16}, 8, 1),
    "tf32x3_80": Config({"BT": 32, "BM": 16}, 8, 2),
}
BACK = {
    "bfloat16": Config({"BM": 64, "BN": 64, "BK": 64}, 8, 3),
    "tf32": Config({"BM": 64, "BN": 64, "BK": 32}, 4, 2),
    "tf32x3": Config({"BM": 64, "BN": 64, "BK": 16}, 8, 2),
    "tf32x3_80": Config({"BM": 64, "BN": 32, "BK": 16}, 8, 2),
}
LENGTHS = Config({"BM": 64, "BK": 64}, 4, 2)
VALUE = Config({"BT": 32}, 4, 2)
PROJECT = Config({"BM": 64, "BK": 64}, 4, 2)


@triton.jit
def lengths(
    S, T, STATS, batch_s, batch_t, step_s, step_t, M, K, blocks, lines, ACROSS: tl.constexpr,
    ALIGN: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """What ``inverse`` tells of each row: four numbers, a line each."""
    pid = tl.program_id(0)
    b = (pid // blocks).to(tl.int64)
    m = (pid % blocks) * BM + tl.arange(0, BM)
    S += b * batch_s * ALIGN
    T += b * batch_t * ALIGN
    square_s = tl.zeros((BM, BK), tl.float32)
    square_t = tl.zeros((BM, BK), tl.float32)
    more = tl.zeros((BM, BK), tl.float32)
    for start in range(0, K if ACROSS else K * ALIGN, BK):
        k = (start + tl.arange(0, BK))[None, :]
        s = load(S, m[:, None], k, M, K, step_s, ACROSS, ALIGN).to(tl.float32)
        t = load(T, m[:, None], k, M, K, step_t, ACROSS, ALIGN).to(tl.float32)
        square_s += s * s
        square_t += t * t
        more += (s - t) * (s + t)
    i, j, e, near = inverse(tl.sum(square_s, 1), tl.sum(square_t, 1), tl.sum(more, 1))
    size = M * ALIGN if ACROSS else M
    STATS += b * size + m
    tl.store(STATS, i, mask=m < size)
    tl.store(STATS + lines, j, mask=m < size)
    tl.store(STATS + 2 * lines, e, mask=m < size)
    tl.store(STATS + 3 * lines, near, mask=m < size)


@triton.jit
def across(
    S, T, STATS, OUT, batch_s, batch_t, step_s, step_t, M, K, tiles, parts, length, plane, lines,
    ACROSS: tl.constexpr, ALIGN: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """A tile of P, Q and R, over a part of the rows; and its mirror image."""
    pid = tl.program_id(0)
    part = (pid // tiles) % parts
    b = (pid // tiles // parts).to(tl.int64)
    row, col = corner(pid % tiles)
    p, q = row * BT + tl.arange(0, BT), col * BT + tl.arange(0, BT)
    S += b * batch_s * ALIGN
    T += b * batch_t * ALIGN
    size = M * ALIGN if ACROSS else M
    STATS += b * size
    dd = tl.zeros((BT, BT), tl.float32)
    du = tl.zeros((BT, BT), tl.float32)
    ud = tl.zeros((BT, BT), tl.float32)
    uu = tl.zeros((BT, BT), tl.float32)
    EXACT: tl.constexpr = tl.float32 == OPERAND
    for start in range(part * length, (part + 1) * length, BM):
        m = start + tl.arange(0, BM)
        i = tl.load(STATS + m, mask=m < size, other=0.0)
        j = tl.load(STATS + lines + m, mask=m < size, other=0.0)
        e = tl.load(STATS + 2 * lines + m, mask=m < size, other=0.0)
        near = tl.load(STATS + 3 * lines + m, mask=m < size, other=0.0)
        s = load(S, m[None, :], p[:, None], M, K, step_s, ACROSS, ALIGN)
        t = load(T, m[None, :], p[:, None], M, K, step_t, ACROSS, ALIGN)
        u_p, d_p = directions(s, t, i[None, :], j[None, :], e[None, :], near[None, :], EXACT)
        u_p, d_p = operand(u_p, OPERAND, PRECISION), operand(d_p, OPERAND, PRECISION)
        s = load(S, m[:, None], q[None, :], M, K, step_s, ACROSS, ALIGN)
        t = load(T, m[:, None], q[None, :], M, K, step_t, ACROSS, ALIGN)
        u_q, d_q = directions(s, t, i[:, None], j[:, None], e[:, None], near[:, None], EXACT)
        u_q, d_q = operand(u_q, OPERAND, PRECISION), operand(d_q, OPERAND, PRECISION)
        dd = dot(d_p, d_q, dd, PRECISION)
        du = dot(d_p, u_q, du, PRECISION)
        ud = dot(u_p, d_q, ud, PRECISION)
        uu = dot(u_p, u_q, uu, PRECISION)
    width = K if ACROSS else K * ALIGN
    OUT += (part * 3).to(tl.int64) * plane + b * width * width
    put(OUT, dd, p, q, width)
    put(OUT + plane, du, p, q, width)
    put(OUT + plane + plane, uu, p, q, width)
    if row != col:
        put(OUT, tl.trans(dd), q, p, width)
        put(OUT + plane, tl.trans(ud), q, p, width)
        put(OUT + plane + plane, tl.trans(uu), q, p, width)


@triton.jit
def value(PQR, VALUES, K, blocks, plane, BT: tl.constexpr):
    """``(<D^T D, S^T S> + <D^T S, (D^T S)^T>) / 2`` over some rows of the [K, K] matrices."""
    pid = tl.program_id(0)
    b = (pid // blocks).to(tl.int64)
    p = (pid % blocks) * BT + tl.arange(0, BT)
    PQR += b * K * K
    acc = tl.zeros((BT, BT), tl.float32)
    for start in range(0, K, BT):
        q = start + tl.arange(0, BT)
        mask = (p < K)[:, None] & (q < K)[None, :]
        at = p[:, None] * K + q[None, :]
        dd = tl.load(PQR + at, mask=mask, other=0.0)
        du = tl.load(PQR + plane + at, mask=mask, other=0.0)
        uu = tl.load(PQR + plane + plane + at, mask=mask, other=0.0)
        turned = (p < K)[None, :] & (q < K)[:, None]
        ud = tl.load(PQR + plane + q[:, None] * K + p[None, :], mask=turned, other=0.0)
        ud = tl.trans(ud)
        acc += dd * (4 * uu - 2 * (du + ud) + dd) + (2 * du - dd) * (2 * ud - dd)
    tl.store(VALUES + pid, tl.sum(tl.sum(acc, 1), 0) * 0.5)


@triton.jit
def back(
    S, T, STATS, FIRST, SECOND, GRAD, OUT, ALONG, batch_s, batch_t, batch_o, step_s, step_t,
    step_o, M, K, tiles_m, tiles_k, lines, ACROSS: tl.constexpr, ALIGN: tl.constexpr,
    TEACHER: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    """``grad (w first + D second)`` for a tile, w the directions of a side; and its part along w.

    Zeros, without a look at the features, where grad is 0.
    """
    pid = tl.program_id(0)
    b = (pid // (tiles_m * tiles_k)).to(tl.int64)
    tile = pid % (tiles_m * tiles_k)
    block = tile % tiles_k
    m = (tile // tiles_k) * BM + tl.arange(0, BM)
    n = block * BN + tl.arange(0, BN)
    S += b * batch_s * ALIGN
    T += b * batch_t * ALIGN
    OUT += b * batch_o * ALIGN
    size = M * ALIGN if ACROSS else M
    width = K if ACROSS else K * ALIGN
    FIRST += b * width * width
    SECOND += b * width * width
    grad = tl.load(GRAD + b)
    acc = tl.zeros((BM, BN), tl.float32)
    along = tl.zeros((BM,), tl.float32)
    OPERAND: tl.constexpr = FIRST.dtype.element_ty
    EXACT: tl.constexpr = tl.float32 == OPERAND
    if grad != 0:
        STATS += b * size
        i = tl.load(STATS + m, mask=m < size, other=0.0)[:, None]
        j = tl.load(STATS + lines + m, mask=m < size, other=0.0)[:, None]
        e = tl.load(STATS + 2 * lines + m, mask=m < size, other=0.0)[:, None]
        near = tl.load(STATS + 3 * lines + m, mask=m < size, other=0.0)[:, None]
        for start in range(0, width, BK):
            k = start + tl.arange(0, BK)
            s = load(S, m[:, None], k[None, :], M, K, step_s, ACROSS, ALIGN)
            t = load(T, m[:, None], k[None, :], M, K, step_t, ACROSS, ALIGN)
            mask = (k < width)[:, None] & (n < width)[None, :]
            at = k[:, None] * width + n[None, :]
            first = tl.load(FIRST + at, mask=mask, other=0.0)
            second = tl.load(SECOND + at, mask=mask, other=0.0)
            w, d = directions(s, t, i, j, e, near, EXACT)
            if TEACHER:
                w = t.to(tl.float32) * j
            w, d = operand(w, OPERAND, PRECISION), operand(d, OPERAND, PRECISION)
            acc = dot(w, first, acc, PRECISION)
            acc = dot(d, second, acc, PRECISION)
        acc = acc * grad
        if TEACHER:
            w = load(T, m[:, None], n[None, :], M, K, step_t, ACROSS, ALIGN).to(tl.float32) * j
        else:
            w = load(S, m[:, None], n[None, :], M, K, step_s, ACROSS, ALIGN).to(tl.float32) * i
        along = tl.sum(w * acc, 1)
    store(OUT, acc, m[:, None], n[None, :], M, K, step_o, ACROSS, ALIGN)
    tl.store(ALONG + (b * tiles_k + block) * size + m, along, mask=m < size)


@triton.jit
def project(
    X, STATS, GRAD, ALONG, RAW, OUT, batch_x, batch_o, step_x, step_o, M, K, tiles_m, tiles_k,
    tiles_of_along, lines, ACROSS: tl.constexpr, ALIGN: tl.constexpr,
    TEACHER: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """From the gradient for directions, RAW, that for the features: across them, by length."""
    pid = tl.program_id(0)
    b = (pid // (tiles_m * tiles_k)).to(tl.int64)
    tile = pid % (tiles_m * tiles_k)
    m = (tile // tiles_k) * BM + tl.arange(0, BM)
    n = ((tile % tiles_k) * BK + tl.arange(0, BK))[None, :]
    X += b * batch_x * ALIGN
    OUT += b * batch_o * ALIGN
    RAW += b * batch_o * ALIGN
    size = M * ALIGN if ACROSS else M
    x = tl.zeros((BM, BK), tl.float32)
    if tl.load(GRAD + b) != 0:
        STATS += b * size
        if TEACHER:
            STATS += lines
        inverse = tl.load(STATS + m, mask=m < size, other=0.0)
        along = tl.zeros((BM,), tl.float32)
        ALONG += b * tiles_of_along * size
        for part in range(tiles_of_along):
            along += tl.load(ALONG + part * size + m, mask=m < size, other=0.0)
        x = load(X, m[:, None], n, M, K, step_x, ACROSS, ALIGN).to(tl.float32)
        raw = load(RAW, m[:, None], n, M, K, step_o, ACROSS, ALIGN)
        x = (raw - x * (inverse * along)[:, None]) * inverse[:, None]
    store(OUT, x, m[:, None], n, M, K, step_o, ACROSS, ALIGN)


def products(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gap of each sample [B], P Q R [3, B, K, K], and numbers [4, B, M] of each row."""
    s = laid(student)
    t = laid(teacher, s.across)
    B, M, K = student.shape
    align = alignment(s, t)
    lie = (
        s.batch // align, t.batch // align, s.step // align, t.step // align, *sizes(s, align)
    )  # fmt: skip
    stats = student.new_empty(4, B, M, dtype=torch.float32)
    blocks = triton.cdiv(M, LENGTHS.tiles["BM"])
    launch(
        lengths, B * blocks, LENGTHS, stats, s.x, t.x, stats, *lie, blocks, B * M,
        ACROSS=s.across, ALIGN=align,
    )  # fmt: skip

    kind, how = precision(student.dtype)
    chosen = config(ACROSS, "bfloat16" if kind == torch.bfloat16 else how, stats, align)
    lines = triton.cdiv(K, chosen.tiles["BT"])
    tiles = lines * (lines + 1) // 2
    parts, length = split(B * tiles, M, chosen.tiles["BM"])
    out = stats.new_empty(parts, 3, B, K, K)
    launch(
        across, B * tiles * parts, chosen, stats, s.x, t.x, stats, out, *lie, tiles, parts,
        length, B * K * K, B * M, ACROSS=s.across, ALIGN=align, OPERAND=_OPERANDS[kind],
        PRECISION=how,
    )  # fmt: skip
    pqr = out[0] if parts == 1 else out.sum(0)

    blocks = triton.cdiv(K, VALUE.tiles["BT"])
    values = stats.new_empty(B, blocks)
    launch(value, B * blocks, VALUE, stats, pqr, values, K, blocks, B * K * K)
    return values.sum(1), pqr, stats


_OPERANDS = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def gradient(
    student: Tensor, teacher: Tensor, pqr: Tensor, stats: Tensor, grad: Tensor, of_teacher: bool
) -> Tensor:
    """The gradient of the gap for a side, [B, M, K], in its type."""
    x = teacher if of_teacher else student
    B, M, K = x.shape
    side, out = laid(x), made_like(x)
    s, t = laid(student, side.across), laid(teacher, side.across)
    raw = out if out.dtype == torch.float32 else made_like(x, torch.float32)
    made = Side(out, side.across, M * K, M if side.across else K)

    kind, how = precision(student.dtype)
    chosen = config(BACK, "bfloat16" if kind == torch.bfloat16 else how, x)
    p, q, r = pqr
    first, second = (p - q, q.mT - r) if of_teacher else (q, r - q)
    first, second = (rounded(4 * y.to(kind).contiguous(), how) for y in (first, second))
    tall, wide = triton.cdiv(M, chosen.tiles["BM"]), triton.cdiv(K, chosen.tiles["BN"])
    along = stats.new_empty(B, wide, M)
    align = alignment(s, t, made)
    launch(
        back, B * tall * wide, chosen, x, s.x, t.x, stats, first, second, grad, raw, along,
        s.batch // align, t.batch // align, made.batch // align, s.step // align,
        t.step // align, made.step // align, *sizes(side, align), tall, wide, B * M,
        ACROSS=side.across, ALIGN=align, TEACHER=of_teacher, PRECISION=how,
    )  # fmt: skip

    align = alignment(side, made)
    tall, parts = triton.cdiv(M, PROJECT.tiles["BM"]), wide
    wide = triton.cdiv(K, PROJECT.tiles["BK"])
    launch(
        project, B * tall * wide, PROJECT, x, side.x, stats, grad, along, raw, out,
        side.batch // align, made.batch // align, side.step // align, made.step // align,
        *sizes(side, align), tall, wide, parts, B * M, ACROSS=side.across, ALIGN=align,
        TEACHER=of_teacher,
    )  # fmt: skip
    return out
