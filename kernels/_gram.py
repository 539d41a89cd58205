"""What the Triton programs for losses over Gram matrices have in common, and how they are launched.

Features are [B, M, K]: M rows whose products are compared, K numbers each; ``_layout.py`` says how
they lie.

Operands that are loaded as they are keep their type. Those that are formed are bfloat16 for
bfloat16 features, tf32 for float16 (11 bits too, and no number is too small for it; rounded here,
for the matrix units cut), and float32 in three tf32 products otherwise, since one alone has three
digits. Sums are float32. Nothing is summed by atomics: parts of a sum have places of their own and
are added in their order.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdgraph.kernels.base import interpreted, on_device

INTERPRETED = tl.constexpr(interpreted())
SHORT = tl.constexpr(1e-24)  # the square of kdgraph.losses._math.SHORT
PROGRAMS = 256  # long sums are split until there are about so many: enough for 132 processors


class Config(NamedTuple):
    """How a program is built: the sizes of its tiles, and of the program."""

    tiles: dict[str, int]
    num_warps: int
    num_stages: int


def split(programs: int, length: int, step: int) -> tuple[int, int]:
    """Into how many parts a sum is cut for so many programs, and how long each is."""
    parts = max(1, min(8, PROGRAMS // max(programs, 1), length // (4 * step)))
    return parts, triton.cdiv(length, parts * step) * step


def precision(dtype: torch.dtype) -> tuple[torch.dtype, str]:
    """The type of operands that are formed of features, and how float32 ones are multiplied."""
    operand = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    return operand, "tf32x3" if dtype == torch.float32 else "tf32"


def config(configs: Mapping[str, Config], key: str, x: Tensor, align: int = 8) -> Config:
    """The one for a type of features; there may be another for a machine that is no Hopper.

    Or, with less to choose from, for features that are aligned to nothing.
    """
    major = torch.cuda.get_device_capability(x.device)[0] if x.is_cuda else 9
    machine = "_80" if major < 9 else "_100" if major > 9 else "_odd" if align == 1 else ""
    return configs.get(key + machine, configs[key])


def launch(
    program: Any, programs: int, chosen: Config, like: Tensor, *args: Any, **kw: Any
) -> None:
    """Runs a Triton program on the device of a tensor."""
    if programs:
        with on_device(like):
            program[(programs,)](
                *args,
                **kw,
                **chosen.tiles,
                num_warps=chosen.num_warps,
                num_stages=chosen.num_stages,
            )


@triton.jit
def nearest(x):
    """The nearest number of tf32: the matrix units cut what is longer, a bias that sums keep."""
    if INTERPRETED:  # which has no assembly
        bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    return tl.inline_asm_elementwise(
        "cvt.rna.tf32.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
    )


def rounded(x: Tensor, how: str) -> Tensor:
    """A float32 operand as ``operand`` makes it: once here, not by each program that reads it."""
    if how != "tf32" or x.dtype != torch.float32:
        return x
    bits = (x.contiguous().view(torch.int32) + 0x1000) & -0x2000
    return bits.view(torch.float32).where(x == x, x)


@triton.jit
def operand(x, TYPE: tl.constexpr, PRECISION: tl.constexpr):
    """What was formed, as ``dot`` takes it."""
    x = x.to(TYPE)
    if tl.float32 == TYPE and PRECISION == "tf32":
        x = nearest(x)
    return x


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    if INTERPRETED:  # whose dot takes the bits of bfloat16 for integers
        return acc + tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def load(X, m, k, M, K, step, ACROSS: tl.constexpr, ALIGN: tl.constexpr):
    """x[m, k], 0 outside; the size and the step that ``ALIGN`` divides arrive divided by it.

    So the compiler knows how wide it may load: an integer it knows nothing of may be odd.
    """
    if ACROSS:
        return tl.load(X + m + k * (step * ALIGN), mask=(m < M * ALIGN) & (k < K), other=0.0)
    return tl.load(X + m * (step * ALIGN) + k, mask=(m < M) & (k < K * ALIGN), other=0.0)


@triton.jit
def store(X, x, m, k, M, K, step, ACROSS: tl.constexpr, ALIGN: tl.constexpr):
    x = x.to(X.dtype.element_ty)
    if ACROSS:
        tl.store(X + m + k * (step * ALIGN), x, mask=(m < M * ALIGN) & (k < K))
    else:
        tl.store(X + m * (step * ALIGN) + k, x, mask=(m < M) & (k < K * ALIGN))


@triton.jit
def corner(tile):
    """Row and column of a tile in the lower triangle, counted row by row."""
    row = ((tl.sqrt(8.0 * tile.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    row = tl.where(row * (row + 1) // 2 > tile, row - 1, row)
    row = tl.where((row + 1) * (row + 2) // 2 <= tile, row + 1, row)
    return row, tile - row * (row + 1) // 2


@triton.jit
def put(OUT, tile, i, j, size):
    mask = (i < size)[:, None] & (j < size)[None, :]
    tl.store(OUT + i[:, None] * size + j[None, :], tile, mask=mask)


@triton.jit
def inverse(square_s, square_t, gap):
    """One over both lengths, and what a difference of directions is made of: see ``apart``.

    ``gap`` is ``square_s - square_t``; for lengths that are similar the difference of their
    inverses comes from it, not from subtracting two rounded numbers.
    """
    i = tl.where(square_s > SHORT, tl.rsqrt(tl.maximum(square_s, SHORT)), 0.0)
    j = tl.where(square_t > SHORT, tl.rsqrt(tl.maximum(square_t, SHORT)), 0.0)
    near = (i < 2 * j) & (j < 2 * i)
    between = gap * i * j * (i * j / tl.where(near, i + j, 1.0))
    return i, j, tl.where(near, between, j), near.to(tl.float32)


@triton.jit
def apart(s, t, gap, i, e, near):
    """``s / |s| - t / |t|``; e is 1/|t| - 1/|s| where the lengths are near, else 1/|t|."""
    return tl.where(near > 0, gap, s) * i - t * e


@triton.jit
def directions(s, t, i, j, e, near, EXACT: tl.constexpr):
    """``s / |s|``, and what it is apart from ``t / |t|``.

    Rounded to 8 bits, the difference of rounded directions is as good as any: bfloat16 features
    that differ at all do so by more.
    """
    s, t = s.to(tl.float32), t.to(tl.float32)
    u = s * i
    if EXACT:
        return u, apart(s, t, s - t, i, e, near)
    return u, u - t * j
