"""Distances and angles between samples, streamed: Triton programs for `relation`.

Both are functions of the squared distances ``S`` alone. With ``I_ij = 1 / |x_i - x_j|``,

    cos(i; j, k) = (S_ij + S_ik - S_jk) / 2 * I_ij * I_ik,

so what has to be kept grows with B**2, the work over features with B**2 D, and the B**3 angles
live in registers. That sum cancels where samples are close; squares are sums in float64 of exact
differences and the cosines are taken in float64, so that what is left of a small gap between
student and teacher is exact to more than float32. All sums run in a fixed order.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _lower(i):
    """Row and column of the i-th tile of a lower triangle."""
    row = ((tl.sqrt(8.0 * i.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    row = tl.where((row + 1) * (row + 2) // 2 <= i, row + 1, row)
    row = tl.where(row * (row + 1) // 2 > i, row - 1, row)
    return row, i - row * (row + 1) // 2


@triton.jit
def _huber(z):
    gap = tl.abs(z)
    return tl.where(gap < 1.0, 0.5 * z * z, gap - 0.5)


@triton.jit
def _slope(z):
    return tl.where(z >= 1.0, 1.0, tl.where(z <= -1.0, -1.0, z))  # nan stays


@triton.jit
def _length(square):
    """At least 1e-6; nan stays."""
    return tl.sqrt(tl.where(square < 1e-12, 1e-12, square))


@triton.jit
def _total(X, N):
    """The sum of N numbers in float64."""
    acc = tl.zeros((256,), tl.float64)
    for start in range(0, N, 256):
        at = start + tl.arange(0, 256)
        acc += tl.load(X + at, mask=at < N, other=0.0)
    return tl.sum(acc, 0)


@triton.jit
def squares(
    X, OUT, B, D, STEP, row, ALIGN: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """OUT [splits, B, B]: squared distances of rows of X [B, D], each split over its features.

    D, STEP (a split) and the stride of rows are given divided by ALIGN, so that the compiler
    knows what they are multiples of.
    """
    i, j = _lower(tl.program_id(0))
    a = i * TILE + tl.arange(0, TILE)
    b = j * TILE + tl.arange(0, TILE)
    start = tl.program_id(1) * (STEP * ALIGN)
    stop = tl.minimum(start + STEP * ALIGN, D * ALIGN)
    A = X + a.to(tl.int64)[:, None] * (row * ALIGN)
    C = X + b.to(tl.int64)[:, None] * (row * ALIGN)
    acc = tl.zeros((TILE, TILE, BLOCK), tl.float64)
    for first in range(start, stop, BLOCK):
        d = first + tl.arange(0, BLOCK)
        inside = (d < stop)[None, :]
        x = tl.load(A + d[None, :], mask=inside & (a < B)[:, None], other=0.0)
        y = tl.load(C + d[None, :], mask=inside & (b < B)[:, None], other=0.0)
        gap = (
            x.to(tl.float32).to(tl.float64)[:, None, :]
            - y.to(tl.float32).to(tl.float64)[None, :, :]
        )
        acc += gap * gap
    square = tl.sum(acc, 2)
    OUT += tl.program_id(1).to(tl.int64) * B * B
    # A pair of a tile on the diagonal is in it twice.
    one = (a[:, None] >= b[None, :]) & (a < B)[:, None]
    tl.store(OUT + a.to(tl.int64)[:, None] * B + b[None, :], square, mask=one)
    tl.store(
        OUT + b.to(tl.int64)[None, :] * B + a[:, None],
        square,
        mask=one & (a[:, None] != b[None, :]),
    )


@triton.jit
def pairs(PARTS, OUT, SUMS, B, SPLITS, BLOCK: tl.constexpr):
    """OUT [2 sides, 2, B, B]: squared and one over distances; SUMS [2, B]: of distances."""
    i = tl.program_id(0).to(tl.int64)
    side = tl.program_id(1).to(tl.int64)
    plane = B.to(tl.int64) * B
    PARTS += side * SPLITS * plane + i * B
    OUT += side * 2 * plane + i * B
    acc = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, B, BLOCK):
        j = start + tl.arange(0, BLOCK)
        square = tl.zeros((BLOCK,), tl.float64)
        for split in range(SPLITS):
            square += tl.load(PARTS + split * plane + j, mask=j < B, other=0.0)
        apart = square > 1e-24
        inverse = tl.where(apart, 1.0 / tl.sqrt(tl.where(apart, square, 1.0)), 0.0)
        tl.store(OUT + j, square, mask=j < B)
        tl.store(OUT + plane + j, inverse, mask=j < B)
        acc += tl.where((j < B) & (j != i), _length(square), 0.0)
    tl.store(SUMS + side * B + i, tl.sum(acc, 0))


@triton.jit
def gaps(PAIRS, SUMS, OUT, B, STEP, ANGLE: tl.constexpr, TILE: tl.constexpr):
    """OUT [splits, tiles, 4]: sums of angle gaps, of distance gaps, of slopes by distances.

    A slope times the distance, of each side, is what the mean distance moves.

    A program has a tile of pairs a > b, and looks at them from some of the samples.
    """
    tile = tl.program_id(0)
    split = tl.program_id(1)
    i, j = _lower(tile)
    a = i * TILE + tl.arange(0, TILE)
    b = j * TILE + tl.arange(0, TILE)
    in_a = a < B
    in_b = b < B
    plane = B.to(tl.int64) * B
    at = a.to(tl.int64)[:, None] * B + b[None, :]
    inside = in_a[:, None] & in_b[None, :]
    s_ab = tl.load(PAIRS + at, mask=inside, other=0.0)
    t_ab = tl.load(PAIRS + 2 * plane + at, mask=inside, other=0.0)
    below = inside & (a[:, None] > b[None, :])
    OUT += (split.to(tl.int64) * tl.num_programs(0) + tile) * 4
    angle = tl.zeros((TILE, TILE), tl.float32)
    if ANGLE:
        S = PAIRS + (split * STEP).to(tl.int64) * B
        for _ in range(split * STEP, tl.minimum(split * STEP + STEP, B)):
            T = S + 2 * plane
            s_a = tl.load(S + a, mask=in_a, other=0.0)[:, None]
            s_b = tl.load(S + b, mask=in_b, other=0.0)[None, :]
            t_a = tl.load(T + a, mask=in_a, other=0.0)[:, None]
            t_b = tl.load(T + b, mask=in_b, other=0.0)[None, :]
            i_a = tl.load(S + plane + a, mask=in_a, other=0.0)[:, None]
            i_b = tl.load(S + plane + b, mask=in_b, other=0.0)[None, :]
            j_a = tl.load(T + plane + a, mask=in_a, other=0.0)[:, None]
            j_b = tl.load(T + plane + b, mask=in_b, other=0.0)[None, :]
            twice = (s_a + s_b - s_ab) * i_a * i_b - (t_a + t_b - t_ab) * j_a * j_b
            angle += _huber((0.5 * twice).to(tl.float32))
            S += B
        angle = tl.where(below, 2.0 * angle, 0.0)
    distance = tl.zeros((TILE, TILE), tl.float32)
    slope_s = tl.zeros((TILE, TILE), tl.float32)
    slope_t = tl.zeros((TILE, TILE), tl.float32)
    if split == 0:
        if ANGLE:
            # j = k: 1 on both sides, but 0 on one where the samples coincide
            i_ab = tl.load(PAIRS + plane + at, mask=inside, other=0.0)
            j_ab = tl.load(PAIRS + 3 * plane + at, mask=inside, other=0.0)
            own = _huber((s_ab * i_ab * i_ab - t_ab * j_ab * j_ab).to(tl.float32))
            twice = tl.where(below, 2.0, 1.0)
            angle += tl.where(inside & (a[:, None] >= b[None, :]), twice * own, 0.0)
        number = B.to(tl.float64) * (B - 1)
        d_s = _length(s_ab)
        d_t = _length(t_ab)
        z = d_s * (number / _total(SUMS, B)) - d_t * (number / _total(SUMS + B, B))
        distance = tl.where(below, 2.0 * _huber(z.to(tl.float32)), 0.0)
        slope = tl.where(below, 2.0 * _slope(z.to(tl.float32)), 0.0)
        slope_s = slope * d_s.to(tl.float32)
        slope_t = slope * d_t.to(tl.float32)
    tl.store(OUT, tl.sum(tl.sum(angle, 1), 0).to(tl.float64))
    tl.store(OUT + 1, tl.sum(tl.sum(distance, 1), 0).to(tl.float64))
    tl.store(OUT + 2, tl.sum(tl.sum(slope_s, 1), 0).to(tl.float64))
    tl.store(OUT + 3, -tl.sum(tl.sum(slope_t, 1), 0).to(tl.float64))


@triton.jit
def finish(PARTS, SUMS, VALUE, STATS, N, B, distance, angle, BLOCK: tl.constexpr):
    """VALUE: the loss; STATS [2 sides, 2]: one over the mean distance, slopes by distance."""
    angles = tl.zeros((BLOCK,), tl.float64)
    distances = tl.zeros((BLOCK,), tl.float64)
    slopes_s = tl.zeros((BLOCK,), tl.float64)
    slopes_t = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, N, BLOCK):
        at = start + tl.arange(0, BLOCK)
        angles += tl.load(PARTS + at * 4, mask=at < N, other=0.0)
        distances += tl.load(PARTS + at * 4 + 1, mask=at < N, other=0.0)
        slopes_s += tl.load(PARTS + at * 4 + 2, mask=at < N, other=0.0)
        slopes_t += tl.load(PARTS + at * 4 + 3, mask=at < N, other=0.0)
    size = B.to(tl.float64)
    number = size * (size - 1.0)
    value = distance * (tl.sum(distances, 0) / (size * size))
    value += angle * (tl.sum(angles, 0) / (size * size * size))
    tl.store(VALUE, value.to(tl.float32))
    tl.store(STATS, number / _total(SUMS, B))
    tl.store(STATS + 1, tl.sum(slopes_s, 0))
    tl.store(STATS + 2, number / _total(SUMS + B, B))
    tl.store(STATS + 3, tl.sum(slopes_t, 0))


@triton.jit
def weights(
    OWN, OTHER, OWN_STATS, OTHER_STATS, OUT, B, STEP, distance, angle,
    ANGLE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """OUT [splits, B, B]: derivatives of the loss with respect to the squares of one side.

    A program has a tile of pairs a > b; with each k they form a triangle, and ``S_ab`` has a part
    in all three of its angles.
    """
    split = tl.program_id(1)
    i, j = _lower(tl.program_id(0))
    a = i * TILE + tl.arange(0, TILE)
    b = j * TILE + tl.arange(0, TILE)
    in_a = a < B
    in_b = b < B
    plane = B.to(tl.int64) * B
    at = a.to(tl.int64)[:, None] * B + b[None, :]
    inside = in_a[:, None] & in_b[None, :]
    s_ab = tl.load(OWN + at, mask=inside, other=0.0)
    t_ab = tl.load(OTHER + at, mask=inside, other=0.0)
    acc = tl.zeros((TILE, TILE), tl.float32)
    if ANGLE:
        i_ab = tl.load(OWN + plane + at, mask=inside, other=0.0)
        j_ab = tl.load(OTHER + plane + at, mask=inside, other=0.0)
        square = (i_ab * i_ab).to(tl.float32)
        S = OWN + (split * STEP).to(tl.int64) * B
        T = OTHER + (split * STEP).to(tl.int64) * B
        for _ in range(split * STEP, tl.minimum(split * STEP + STEP, B)):
            s_a = tl.load(S + a, mask=in_a, other=0.0)[:, None]
            s_b = tl.load(S + b, mask=in_b, other=0.0)[None, :]
            t_a = tl.load(T + a, mask=in_a, other=0.0)[:, None]
            t_b = tl.load(T + b, mask=in_b, other=0.0)[None, :]
            i_a = tl.load(S + plane + a, mask=in_a, other=0.0)[:, None]
            i_b = tl.load(S + plane + b, mask=in_b, other=0.0)[None, :]
            j_a = tl.load(T + plane + a, mask=in_a, other=0.0)[:, None]
            j_b = tl.load(T + plane + b, mask=in_b, other=0.0)[None, :]
            at_a = 0.5 * (s_ab + (s_a - s_b)) * (i_ab * i_a)
            at_b = 0.5 * (s_ab - (s_a - s_b)) * (i_ab * i_b)
            at_k = 0.5 * (s_a + s_b - s_ab) * (i_a * i_b)
            g_a = _slope((at_a - 0.5 * (t_ab + (t_a - t_b)) * (j_ab * j_a)).to(tl.float32))
            g_b = _slope((at_b - 0.5 * (t_ab - (t_a - t_b)) * (j_ab * j_b)).to(tl.float32))
            g_k = _slope((at_k - 0.5 * (t_a + t_b - t_ab) * (j_a * j_b)).to(tl.float32))
            acc += g_a * ((i_ab * i_a).to(tl.float32) - at_a.to(tl.float32) * square)
            acc += g_b * ((i_ab * i_b).to(tl.float32) - at_b.to(tl.float32) * square)
            acc -= g_k * (i_a * i_b).to(tl.float32)
            S += B
            T += B
        size = B.to(tl.float32)
        acc *= angle / (size * size * size)
    if split == 0:
        one = tl.load(OWN_STATS)
        other = tl.load(OTHER_STATS)
        number = B.to(tl.float64) * (B - 1)
        d = _length(s_ab)
        z = d * one - _length(t_ab) * other
        # the second term is by way of the mean distance
        slope = _slope(z.to(tl.float32)) * one - tl.load(OWN_STATS + 1) * one * one / number
        slope = tl.where(s_ab < 1e-12, 0.0, slope / d)
        acc += (distance * slope / (B.to(tl.float64) * B)).to(tl.float32)
    OUT += split.to(tl.int64) * plane
    below = inside & (a[:, None] > b[None, :])
    tl.store(OUT + at, tl.where(below, acc, 0.0), mask=inside & (a[:, None] >= b[None, :]))
    tl.store(OUT + b.to(tl.int64)[None, :] * B + a[:, None], acc, mask=below)


@triton.jit
def gradient(
    X, W, GRAD, OUT, B, D, row, out_row,
    ALIGN: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """OUT [B, D]: ``2 sum_b W_ab (x_a - x_b)``; differences lose nothing where b is close."""
    a = tl.program_id(1) * TILE + tl.arange(0, TILE)
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_a = a < B
    in_d = d < D * ALIGN
    inside = in_a[:, None] & in_d[None, :]
    x = tl.load(
        X + a.to(tl.int64)[:, None] * (row * ALIGN) + d[None, :],
        mask=inside, other=0.0,
    ).to(tl.float32)  # fmt: skip
    acc = tl.zeros((TILE, BLOCK), tl.float32)
    Y = X + d
    for _ in range(B):
        w = tl.load(W + a, mask=in_a, other=0.0)
        y = tl.load(Y, mask=in_d, other=0.0).to(tl.float32)
        acc += w[:, None] * (x - y[None, :])
        W += B
        Y += row * ALIGN
    acc *= 2.0 * tl.load(GRAD)
    at = a.to(tl.int64)[:, None] * (out_row * ALIGN) + d[None, :]
    tl.store(OUT + at, acc.to(OUT.dtype.element_ty), mask=inside)


class Config(NamedTuple):
    """The tile of a program, the block that it walks in, and its warps."""

    tile: int
    block: int
    num_warps: int


SQUARES = Config(16, 32, 8)
PAIRS = Config(1, 256, 4)
GAPS = (Config(16, 1, 1), Config(32, 1, 4))  # up to FEW samples, and above
WEIGHTS = (Config(16, 1, 2), Config(32, 1, 8))  # of the same tiles
FINISH = Config(1, 256, 4)
GRADIENT = Config(32, 64, 4)
FEW = 256
BUSY = 1024  # programs that fill a GPU; more of them only make more partial sums
DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def aligned(x: Tensor) -> int:
    """What the sizes of rows [B, D] are divided by, so that loads of 128 bits can be known."""
    return 1 if x.data_ptr() % 16 or x.shape[1] % 8 or x.stride(0) % 8 else 8


def dense(x: Tensor) -> Tensor:
    """Rows whose numbers are neighbours; a copy only of what is transposed."""
    return x if x.stride(1) == 1 else x.contiguous()


# pointers to float64
WIDE = ("PARTS", "PAIRS", "OWN", "OTHER", "SUMS", "STATS", "OWN_STATS", "OTHER_STATS")


class Variant(NamedTuple):
    """A kernel as it is launched, for who builds it ahead of time."""

    kernel: Any
    types: dict[str, str]  # of the arguments that are no constants
    constants: dict[str, Any]
    divisible: tuple[str, ...]  # those that are multiples of 16
    num_warps: int


def variants() -> list[Variant]:
    """All that ``launch`` and ``launch_gradient`` may launch, at sizes that are multiples of 16.

    Of other sizes, loads of pairs are narrower; ``ALIGN`` is 1 where those of rows are.
    """
    ints = dict.fromkeys(("B", "D", "N", "STEP", "SPLITS", "row", "out_row"), "i32")
    floats = {"distance": "fp32", "angle": "fp32"}
    wide = dict.fromkeys(WIDE, "*fp64")
    over_pairs = ints | floats | wide | {"OUT": "*fp64"}
    found = [
        Variant(pairs, over_pairs, {"BLOCK": PAIRS.block}, ("PARTS", "OUT", "B"), PAIRS.num_warps),
        Variant(
            finish, over_pairs | {"VALUE": "*fp32"}, {"BLOCK": FINISH.block}, ("PARTS",),
            FINISH.num_warps,
        ),
    ]  # fmt: skip
    for many, angle in ((False, True), (True, True), (True, False)):
        constants = {"ANGLE": angle, "TILE": GAPS[many].tile}
        found += [
            Variant(gaps, over_pairs, constants, ("PAIRS", "B"), GAPS[many].num_warps),
            Variant(
                weights, over_pairs | {"OUT": "*fp32"}, constants, ("OWN", "OTHER", "OUT", "B"),
                WEIGHTS[many].num_warps,
            ),
        ]  # fmt: skip
    for name in DTYPES.values():
        for align in (8, 1):
            rows = ints | {"X": f"*{name}", "W": "*fp32", "GRAD": "*fp32"}
            for kernel, config, out in ((squares, SQUARES, "fp64"), (gradient, GRADIENT, name)):
                constants = {"ALIGN": align, "TILE": config.tile, "BLOCK": config.block}
                found.append(
                    Variant(
                        kernel, rows | {"OUT": f"*{out}"}, constants, ("X", "W", "OUT", "B"),
                        config.num_warps,
                    )
                )  # fmt: skip
    return found


def launch(
    student: Tensor, teacher: Tensor, distance: float, angle: float
) -> tuple[Tensor, Tensor, Tensor]:
    """From rows [B, D] of each side, B >= 2: the loss, ``PAIRS`` [4, B, B] and ``STATS``."""
    B = len(student)
    wide = partial(torch.empty, dtype=torch.float64, device=student.device)
    tiles = _tiles(B, SQUARES.tile)
    blocks = triton.cdiv(max(student.shape[1], teacher.shape[1]), SQUARES.block)
    splits = max(1, min(BUSY // (2 * tiles), blocks // 4))
    parts = wide(2, splits, B, B)
    for x, out in ((dense(student), parts[0]), (dense(teacher), parts[1])):
        align = aligned(x)
        step = triton.cdiv(triton.cdiv(x.shape[1], SQUARES.block), splits) * SQUARES.block
        squares[(tiles, splits)](
            x, out, B, x.shape[1] // align, step // align, x.stride(0) // align,
            ALIGN=align, TILE=SQUARES.tile, BLOCK=SQUARES.block, num_warps=SQUARES.num_warps,
        )  # fmt: skip
    kept, sums = wide(4, B, B), wide(2, B)
    pairs[(B, 2)](parts, kept, sums, B, splits, BLOCK=PAIRS.block, num_warps=PAIRS.num_warps)
    tiles, splits, step, options = _triples(B, angle, GAPS)
    sums_of = wide(splits, tiles, 4)
    gaps[(tiles, splits)](kept, sums, sums_of, B, step, **options)
    value = torch.empty((), dtype=torch.float32, device=student.device)
    stats = wide(2, 2)
    finish[(1,)](
        sums_of, sums, value, stats, tiles * splits, B, distance, angle,
        BLOCK=FINISH.block, num_warps=FINISH.num_warps,
    )  # fmt: skip
    return value, kept, stats


def launch_gradient(
    x: Tensor,
    kept: Tensor,
    stats: Tensor,
    grad: Tensor,
    distance: float,
    angle: float,
    of_teacher: bool,
) -> Tensor:
    """The gradient of the rows x of one side, [B, D] in their dtype."""
    x = dense(x)
    B, D = x.shape
    sides = (*kept.view(2, 2, B, B), *stats)
    sides = (*sides[1::-1], *sides[:1:-1]) if of_teacher else sides
    tiles, splits, step, options = _triples(B, angle, WEIGHTS)
    parts = torch.empty(splits, B, B, dtype=torch.float32, device=x.device)
    weights[(tiles, splits)](*sides, parts, B, step, distance, angle, **options)
    out = torch.empty(B, D, dtype=x.dtype, device=x.device)
    align = aligned(x)
    # the first dimension of a grid is the one without a limit of 65,535
    grid = (triton.cdiv(D, GRADIENT.block), triton.cdiv(B, GRADIENT.tile))
    gradient[grid](
        x, parts.sum(0), grad, out, B, D // align, x.stride(0) // align, D // align,
        ALIGN=align, TILE=GRADIENT.tile, BLOCK=GRADIENT.block, num_warps=GRADIENT.num_warps,
    )  # fmt: skip
    return out


def _tiles(samples: int, tile: int) -> int:
    rows = -(-samples // tile)
    return rows * (rows + 1) // 2


def _triples(
    samples: int, angle: float, configs: tuple[Config, Config]
) -> tuple[int, int, int, dict[str, Any]]:
    """Tiles, splits of the third sample, how many a split takes, and what is compiled in."""
    config = configs[samples > FEW or not angle]
    tiles = _tiles(samples, config.tile)
    splits = max(1, min(BUSY // tiles, triton.cdiv(samples, 16))) if angle else 1
    step = triton.cdiv(samples, splits)
    options = {"ANGLE": angle != 0, "TILE": config.tile, "num_warps": config.num_warps}
    return tiles, triton.cdiv(samples, step), step, options
