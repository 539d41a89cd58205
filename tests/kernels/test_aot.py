"""The harness itself: it sees what a kernel does wrong."""

from __future__ import annotations

import pytest
import triton
import triton.language as tl
from aot import TARGETS, build

pytestmark = pytest.mark.aot

TYPES = {"X": "*bf16", "Y": "*fp32", "N": "i32"}


@triton.jit
def _sum_of_powers(X, Y, N, BLOCK: tl.constexpr):
    acc = tl.zeros((BLOCK,), tl.float32)
    for i in range(0, N, BLOCK):
        at = i + tl.arange(0, BLOCK)
        acc += tl.exp2(tl.load(X + at, mask=at < N, other=0.0).to(tl.float32))
    tl.store(Y, tl.sum(acc, 0))


@triton.jit
def _powers(X, Y, N, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(Y + at, tl.exp2(tl.load(X + at, mask=at < N).to(tl.float32)), mask=at < N)


@triton.jit
def _product(A, B, C, K, BM: tl.constexpr, BK: tl.constexpr):
    m = tl.arange(0, BM)
    k = tl.arange(0, BK)
    acc = tl.zeros((BM, BM), tl.float32)
    for i in range(0, K, BK):
        a = tl.load(A + m[:, None] * K + i + k[None, :])
        b = tl.load(B + m[:, None] * K + i + k[None, :])
        acc = tl.dot(a, b.T, acc)
    tl.store(C + m[:, None] * BM + m[None, :], acc)


def test_a_kernel_that_spills_is_told() -> None:
    found = build(
        _sum_of_powers, {**TYPES, "X": "*fp32"}, {"BLOCK": 32768}, num_warps=4, divisible=TYPES
    )
    assert found.stack > 0
    assert found.spills > 0
    (fault,) = found.faults()
    assert f"{found.stack} bytes of stack" in fault


def test_too_much_shared_memory_is_told() -> None:
    size = {"A": "*fp32", "B": "*fp32", "C": "*fp32", "K": "i32"}
    found = build(
        _product, size, {"BM": 128, "BK": 64}, num_warps=8, num_stages=6, cc=80, divisible=size
    )
    assert any("shared memory" in fault for fault in found.faults())


@pytest.mark.parametrize("cc", TARGETS)
def test_a_loop_is_counted_by_itself(cc: int) -> None:
    found = build(_sum_of_powers, TYPES, {"BLOCK": 4096}, num_warps=8, cc=cc, divisible=TYPES)
    assert not found.faults()
    assert found.ex2 == 4096 / (32 * 8)
    (loop,) = found.loops
    assert found.ex2 < loop < found.instructions


@pytest.mark.parametrize("cc", TARGETS)
def test_narrow_loads_are_told_from_wide_ones(cc: int) -> None:
    wide, narrow = (
        build(_powers, TYPES, {"BLOCK": 4096}, num_warps=8, cc=cc, divisible=d)
        for d in (["X", "Y", "N"], ["X", "Y"])
    )
    assert wide.loads_128 == wide.loads == 4096 * 16 / (32 * 8) / 128
    assert wide.stores_128 == wide.stores == 4096 * 32 / (32 * 8) / 128
    assert narrow.loads_128 == narrow.stores_128 == 0
    assert narrow.loads == narrow.stores == 4096 / (32 * 8)


@pytest.mark.parametrize(("cc", "unit"), [(80, "mma"), (90, "wgmma"), (100, "tcgen05")])
def test_each_target_has_its_matrix_units(cc: int, unit: str) -> None:
    size = {"A": "*bf16", "B": "*bf16", "C": "*fp32", "K": "i32"}
    found = build(_product, size, {"BM": 128, "BK": 64}, num_warps=8, cc=cc, divisible=size)
    assert {u for u in ("mma", "wgmma", "tcgen05") if getattr(found, u)} == {unit}


def test_a_constant_is_known_to_the_compiler() -> None:
    found = build(
        _powers,
        {"X": "*bf16", "Y": "*fp32"},
        {"N": 4096, "BLOCK": 4096},
        num_warps=8,
        divisible=["X", "Y"],
    )
    assert found.loads_128 == found.loads


def test_a_name_that_is_no_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match="STRIDE"):
        build(_powers, TYPES, {"BLOCK": 256, "STRIDE": 1}, num_warps=4)
