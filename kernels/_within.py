"""Gaps between Gram matrices of the rows themselves, [M, M]: ICKD's, and those of cosines.

``grams`` makes ``G_t`` and ``G_s``; for float32 features of the same K ``apart_grams`` makes their
difference too, as ``(s - t) s^T + t (s - t)^T``, where nothing cancels. Of half precision the
products are exact in float32, and the difference is taken afterwards: formed operands would be
rounded to 8 or 11 bits. Only the lower triangle is computed; the other is its mirror image.
``rows`` has the loss and what the gradient needs of each row, ``weights`` the symmetric matrix
``dG + dG^T``, ``product`` multiplies the features by it. A library's product would do for that last
step too, but it rounds the gradient of float16 before it is scaled, has plain float32 or plain
tf32 and nothing between, and copies features that do not lie as it likes.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdgraph.kernels._gram import (
    Config,
    apart,
    config,
    corner,
    dot,
    inverse,
    launch,
    load,
    operand,
    precision,
    put,
    split,
    store,
)
from kdgraph.kernels._layout import Side, alignment, laid, made_like, sizes

# By the type of the features; "small" where no tile of 128 would be filled. A number at the end is
# of the machines (compute capability) that spill registers otherwise.
WITHIN = {
    "half": Config({"BM": 128, "BK": 64}, 8, 3),
    "half_small": Config({"BM": 64, "BK": 64}, 4, 3),
    "half_small_100": Config({"BM": 64, "BK": 64}, 8, 3),
    "float32": Config({"BM": 64, "BK": 16}, 8, 2),
    "float32_80": Config({"BM": 32, "BK": 16}, 4, 2),
    "float32_100": Config({"BM": 64, "BK": 32}, 8, 2),
}
PRODUCT = {
    "bfloat16": Config({"BM": 128, "BN": 128, "BK": 64}, 8, 3),
    "bfloat16_small": Config({"BM": 64, "BN": 64, "BK": 64}, 4, 3),
    "float16": Config({"BM": 64, "BN": 64, "BK": 32}, 4, 3),
    "float32": Config({"BM": 64, "BN": 64, "BK": 32}, 4, 3),
}
ROWS = Config({"BR": 8, "BC": 128}, 4, 2)
WEIGHTS = Config({"BR": 16, "BC": 128}, 4, 2)


@triton.jit
def grams(
    S, T, OUT, batch_s, batch_t, step_s, step_t, M, K_S, K_T, tiles, parts, sides, first, length,
    plane, ACROSS: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    """A tile, and its mirror image, of ``G_t`` or ``G_s``, over a part of the sum."""
    pid = tl.program_id(0)
    row, col = corner(pid % tiles)
    pid = pid // tiles
    side = first + pid % sides
    part = (pid // sides) % parts
    b = (pid // sides // parts).to(tl.int64)
    i, j = row * BM + tl.arange(0, BM), col * BM + tl.arange(0, BM)
    # one loop for both: two would have buffers of their own
    X = T
    if side == 1:
        X = S
    K = tl.where(side == 1, K_S, K_T)
    step = tl.where(side == 1, step_s, step_t)
    batch = tl.where(side == 1, batch_s, batch_t)
    X += b * batch * ALIGN
    size = M * ALIGN if ACROSS else M
    gram = tl.zeros((BM, BM), tl.float32)
    for start in range(part * length, (part + 1) * length, BK):
        k = start + tl.arange(0, BK)
        x = load(X, i[:, None], k[None, :], M, K, step, ACROSS, ALIGN)
        x_j = load(X, j[None, :], k[:, None], M, K, step, ACROSS, ALIGN)
        gram = dot(x, x_j, gram, PRECISION)
    OUT += (part * 2 + side).to(tl.int64) * plane + b * size * size
    _both(OUT, gram, i, j, size, row != col)


@triton.jit
def apart_grams(
    S, T, OUT, batch_s, batch_t, step_s, step_t, M, K, tiles, parts, length, plane,
    ACROSS: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    """A tile, and its mirror image, of ``G_t``, ``G_s`` and their difference."""
    pid = tl.program_id(0)
    row, col = corner(pid % tiles)
    part = (pid // tiles) % parts
    b = (pid // tiles // parts).to(tl.int64)
    i, j = row * BM + tl.arange(0, BM), col * BM + tl.arange(0, BM)
    S += b * batch_s * ALIGN
    T += b * batch_t * ALIGN
    size = M * ALIGN if ACROSS else M
    of_s = tl.zeros((BM, BM), tl.float32)
    of_t = tl.zeros((BM, BM), tl.float32)
    gap = tl.zeros((BM, BM), tl.float32)
    for start in range(part * length, (part + 1) * length, BK):
        k = start + tl.arange(0, BK)
        s = load(S, i[:, None], k[None, :], M, K, step_s, ACROSS, ALIGN)
        t = load(T, i[:, None], k[None, :], M, K, step_t, ACROSS, ALIGN)
        s_j = load(S, j[None, :], k[:, None], M, K, step_s, ACROSS, ALIGN)
        t_j = load(T, j[None, :], k[:, None], M, K, step_t, ACROSS, ALIGN)
        of_t = dot(t, t_j, of_t, PRECISION)
        of_s = dot(s, s_j, of_s, PRECISION)
        gap = dot(s - t, s_j, gap, PRECISION)
        gap = dot(t, s_j - t_j, gap, PRECISION)
    OUT += (part * 3).to(tl.int64) * plane + b * size * size
    _both(OUT, of_t, i, j, size, row != col)
    _both(OUT + plane, of_s, i, j, size, row != col)
    _both(OUT + plane + plane, gap, i, j, size, row != col)


@triton.jit
def _both(OUT, tile, i, j, size, mirrored):
    put(OUT, tile, i, j, size)
    if mirrored:
        put(OUT, tl.trans(tile), j, i, size)


@triton.jit
def _read(G, plane, at, mask, DELTA: tl.constexpr):
    """Some of ``G_s``, of ``G_t``, and of their difference."""
    t = tl.load(G + at, mask=mask, other=0.0)
    s = tl.load(G + plane + at, mask=mask, other=0.0)
    if DELTA:
        return s, t, tl.load(G + plane + plane + at, mask=mask, other=0.0)
    return s, t, s - t


@triton.jit
def _cosine_gap(s, t, gap, i, j, e, near, i2, j2, e2, near2):
    """The difference of two cosines, of a row with another, from the Gram matrices."""
    close = gap * i * i2 - t * (i * e2 + j2 * e)
    return tl.where((near > 0) & (near2 > 0), close, s * i * i2 - t * j * j2)


@triton.jit
def _of_diagonal(G, plane, m, size, DELTA: tl.constexpr):
    s, t, gap = _read(G, plane, m * (size + 1), m < size, DELTA)
    return inverse(s, t, gap)


@triton.jit
def rows(
    G, STATS, VALUES, M, blocks, plane, lines, COSINE: tl.constexpr,
    DELTA: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """``sum_j (H_s - H_t)**2`` for each row of H, and what the gradient needs of a row.

    ``STATS``: 1/|s|, 1/|t|, what ``apart`` takes, and how much of the gap lies along H_s, H_t.
    Between rows of length 1 that is half the squared gap; the cosines have it summed.
    """
    pid = tl.program_id(0)
    b = (pid // blocks).to(tl.int64)
    m = (pid % blocks) * BR + tl.arange(0, BR)
    G += b * M * M
    at = m[:, None] * M
    if COSINE:
        i, j, e, near = _of_diagonal(G, plane, m, M, DELTA)
    else:
        square_s = tl.zeros((BR,), tl.float32)
        square_t = tl.zeros((BR,), tl.float32)
        more = tl.zeros((BR,), tl.float32)
        for start in range(0, M, BC):
            n = start + tl.arange(0, BC)
            mask = (m < M)[:, None] & (n < M)[None, :]
            s, t, gap = _read(G, plane, at + n[None, :], mask, DELTA)
            square_s += tl.sum(s * s, 1)
            square_t += tl.sum(t * t, 1)
            more += tl.sum(gap * (s + t), 1)
        i, j, e, near = inverse(square_s, square_t, more)

    value = tl.zeros((BR,), tl.float32)
    along_s = tl.zeros((BR,), tl.float32)
    along_t = tl.zeros((BR,), tl.float32)
    for start in range(0, M, BC):
        n = start + tl.arange(0, BC)
        mask = (m < M)[:, None] & (n < M)[None, :]
        s, t, gap = _read(G, plane, at + n[None, :], mask, DELTA)
        if COSINE:
            i2, j2, e2, near2 = _of_diagonal(G, plane, n, M, DELTA)
            gap = _cosine_gap(s, t, gap, i[:, None], j[:, None], e[:, None], near[:, None],
                              i2[None, :], j2[None, :], e2[None, :], near2[None, :])  # fmt: skip
            along_s += tl.sum(gap * s * i[:, None] * i2[None, :], 1)
            along_t += tl.sum(gap * t * j[:, None] * j2[None, :], 1)
        else:
            gap = apart(s, t, gap, i[:, None], e[:, None], near[:, None])
        value += tl.sum(gap * gap, 1)
    if not COSINE:
        along_s = value * tl.where(j > 0, 0.5, 1.0)
        along_t = -value * tl.where(i > 0, 0.5, 1.0)

    STATS += b * M + m
    tl.store(STATS, i, mask=m < M)
    tl.store(STATS + lines, j, mask=m < M)
    tl.store(STATS + 2 * lines, e, mask=m < M)
    tl.store(STATS + 3 * lines, near, mask=m < M)
    tl.store(STATS + 4 * lines, along_s, mask=m < M)
    tl.store(STATS + 5 * lines, along_t, mask=m < M)
    tl.store(VALUES + b * M + m, value, mask=m < M)


@triton.jit
def _slope(s, t, gap, i, j, e, near, along, TEACHER: tl.constexpr):
    """Half the gradient with respect to a row of G, which is divided by its length."""
    gap = apart(s, t, gap, i, e, near)
    if TEACHER:
        return (t * j * along - gap) * j
    return (gap - s * i * along) * i


@triton.jit
def weights(
    G, STATS, GRAD, W, M, rows_of_tiles, tiles_of_row, plane, lines, COSINE: tl.constexpr,
    DELTA: tl.constexpr, TEACHER: tl.constexpr, PRECISION: tl.constexpr, BR: tl.constexpr,
    BC: tl.constexpr,
):  # fmt: skip
    """``dG + dG^T``, by which the features are multiplied; an operand for ``PRECISION``.

    G is symmetric: across its diagonal only the numbers of the row are others.
    """
    pid = tl.program_id(0)
    tile = pid % (rows_of_tiles * tiles_of_row)
    b = (pid // (rows_of_tiles * tiles_of_row)).to(tl.int64)
    if tl.load(GRAD + b) != 0:
        m = (tile // tiles_of_row) * BR + tl.arange(0, BR)
        n = (tile % tiles_of_row) * BC + tl.arange(0, BC)
        mask = (m < M)[:, None] & (n < M)[None, :]
        at = b * M * M + m[:, None] * M + n[None, :]
        s, t, gap = _read(G, plane, at, mask, DELTA)
        STATS += b * M
        A, B = STATS + m[:, None], STATS + n[None, :]
        a, c = (m < M)[:, None], (n < M)[None, :]
        i, i2 = tl.load(A, mask=a, other=0.0), tl.load(B, mask=c, other=0.0)
        j, j2 = tl.load(A + lines, mask=a, other=0.0), tl.load(B + lines, mask=c, other=0.0)
        e, e2 = tl.load(A + 2 * lines, mask=a, other=0.0), tl.load(B + 2 * lines, mask=c, other=0.0)
        near = tl.load(A + 3 * lines, mask=a, other=0.0)
        near2 = tl.load(B + 3 * lines, mask=c, other=0.0)
        which: tl.constexpr = 5 if TEACHER else 4
        along = tl.load(A + which * lines, mask=a, other=0.0)
        if COSINE:
            own = j if TEACHER else i
            other = j2 if TEACHER else i2
            gap = _cosine_gap(s, t, gap, i, j, e, near, i2, j2, e2, near2)
            w = gap * own * other
            w = tl.where(m[:, None] == n[None, :], w - own * own * along, w)
            w = w * (-4.0 if TEACHER else 4.0)
        else:
            along2 = tl.load(B + which * lines, mask=c, other=0.0)
            w = _slope(s, t, gap, i, j, e, near, along, TEACHER)
            w = 2.0 * (w + _slope(s, t, gap, i2, j2, e2, near2, along2, TEACHER))
        tl.store(W + at, operand(w, W.dtype.element_ty, PRECISION), mask=mask)


@triton.jit
def product(
    W, X, GRAD, OUT, batch_x, batch_o, step_x, step_o, M, K, tiles_m, tiles_k,
    ACROSS: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """``grad W x`` for a tile; zeros, without a look at x, where grad is 0."""
    pid = tl.program_id(0)
    b = (pid // (tiles_m * tiles_k)).to(tl.int64)
    tile = pid % (tiles_m * tiles_k)
    m = (tile % tiles_m) * BM + tl.arange(0, BM)
    n = (tile // tiles_m) * BN + tl.arange(0, BN)
    size = M * ALIGN if ACROSS else M
    X += b * batch_x * ALIGN
    OUT += b * batch_o * ALIGN
    W += b * size * size
    grad = tl.load(GRAD + b)
    acc = tl.zeros((BM, BN), tl.float32)
    if grad != 0:
        for start in range(0, size, BK):
            k = start + tl.arange(0, BK)
            mask = (m < size)[:, None] & (k < size)[None, :]
            w = tl.load(W + m[:, None] * size + k[None, :], mask=mask, other=0.0)
            x = load(X, k[:, None], n[None, :], M, K, step_x, ACROSS, ALIGN)
            # 11 bits of float16 are what tf32 has
            acc = dot(w, x.to(w.dtype), acc, PRECISION)
        acc = acc * grad
    store(OUT, acc, m[:, None], n[None, :], M, K, step_o, ACROSS, ALIGN)


def gram_matrices(student: Tensor, teacher: Tensor, delta: bool) -> Tensor:
    """``G_t``, ``G_s`` and, with ``delta``, their difference: float32 [2 or 3, B, M, M]."""
    s = laid(student)
    t = laid(teacher, s.across if delta else None)
    B, M, _ = student.shape
    programs = B * (2 if s.across == t.across and not delta else 1)
    key = "float32" if student.dtype == torch.float32 else "half_small" if M <= 64 else "half"
    chosen = config(WITHIN, key, student)
    lines = triton.cdiv(M, chosen.tiles["BM"])
    tiles = lines * (lines + 1) // 2
    longest = max(student.shape[2], teacher.shape[2])
    parts, length = split(programs * tiles, longest, chosen.tiles["BK"])
    out = student.new_empty(parts, 3 if delta else 2, B, M, M, dtype=torch.float32)

    def run(program: Any, s: Side, t: Side, *more: int) -> None:
        align = alignment(s, t)
        both = sizes(s, align)
        if not delta:
            both += sizes(t, align)[1:]
        launch(
            program, programs * tiles * parts, chosen, out, s.x, t.x, out, s.batch // align,
            t.batch // align, s.step // align, t.step // align, *both, tiles, parts, *more,
            length, B * M * M, ACROSS=s.across, ALIGN=align, PRECISION="tf32x3",
        )  # fmt: skip

    if delta:
        run(apart_grams, s, t)
    elif s.across == t.across:
        run(grams, s, t, 2, 0)
    else:
        run(grams, t, t, 1, 0)
        run(grams, s, s, 1, 1)
    return out[0] if parts == 1 else out.sum(0)


def gaps(gram: Tensor, cosine: bool) -> tuple[Tensor, Tensor]:
    """The loss of each sample [B], and numbers [6, B, M] for ``gradient``."""
    planes, B, M, _ = gram.shape
    stats, values = gram.new_empty(6, B, M), gram.new_empty(B, M)
    blocks = triton.cdiv(M, ROWS.tiles["BR"])
    launch(
        rows, B * blocks, ROWS, gram, gram, stats, values, M, blocks, B * M * M, B * M,
        COSINE=cosine, DELTA=planes == 3,
    )  # fmt: skip
    return values.sum(1), stats


def gradient(
    x: Tensor, gram: Tensor, stats: Tensor, grad: Tensor, cosine: bool, teacher: bool
) -> Tensor:
    """The gradient of ``gaps`` for a side x [B, M, K], in its type."""
    B, M, K = x.shape
    kind, how = precision(x.dtype)
    w = gram.new_empty(B, M, M, dtype=kind)
    tall, wide = triton.cdiv(M, WEIGHTS.tiles["BR"]), triton.cdiv(M, WEIGHTS.tiles["BC"])
    launch(
        weights, B * tall * wide, WEIGHTS, gram, gram, stats, grad, w, M, tall, wide, B * M * M,
        B * M, COSINE=cosine, DELTA=len(gram) == 3, TEACHER=teacher, PRECISION=how,
    )  # fmt: skip
    side, out = laid(x), made_like(x)
    made = Side(out, side.across, M * K, M if side.across else K)
    key = str(x.dtype).removeprefix("torch.")
    key += "_small" if key == "bfloat16" and min(M, K) <= 64 else ""
    chosen = config(PRODUCT, key, x)
    tall, wide = triton.cdiv(M, chosen.tiles["BM"]), triton.cdiv(K, chosen.tiles["BN"])
    align = alignment(side, made)
    launch(
        product, B * tall * wide, chosen, x, w, side.x, grad, out, side.batch // align,
        made.batch // align, side.step // align, made.step // align, *sizes(side, align), tall,
        wide, ACROSS=side.across, ALIGN=align, PRECISION=how,
    )  # fmt: skip
    return out
