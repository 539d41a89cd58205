"""The programs of ``linear_soft_target``, built for GPUs that need not be there.

They read products that PyTorch's own matrix product has made, so there is none in them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from aot import TARGETS, Build, build

from kdgraph.kernels.sparse_rows import MOST

pytestmark = pytest.mark.aot
_linear = pytest.importorskip("kdgraph.kernels._linear")

TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
WIDE = ("VP", "ss", "st", "sg")  # multiples of 16, as the buffers are made
SIGNATURE = {
    **dict.fromkeys(("S", "T", "BIAS", "BIAS_S", "BIAS_T", "WEIGHT"), "*fp32"),
    **dict.fromkeys(("TAU", "TAU_S", "TAU_T", "LOSS"), "*fp32"),
    **dict.fromkeys(("V", "k", "step", "step_s", "step_t", "bucket", "grad", *WIDE), "i32"),
    **dict.fromkeys(("factor", "factor_s", "factor_t", "cap", "cap_s", "cap_t"), "fp32"),
    "IDS": "*i32",
    "LOG_P": "*fp64",
}
BUILDS = [(head, dtype) for head in _linear.HEADS for dtype in _linear.GRADIENTS]
every_build = pytest.mark.parametrize(
    ("head", "dtype", "cc"),
    [
        pytest.param(*one, cc, id=f"{('plain', 'head')[one[0]]}-{str(one[1])[6:]}-{cc}")
        for one in BUILDS
        for cc in TARGETS
    ],
)


def built(program: Any, dtype: torch.dtype, cc: int, warps: int, **constants: Any) -> Build:
    types = SIGNATURE | {"G": TYPES[dtype]}
    types = {n: t for n, t in types.items() if n in program.arg_names}
    divisible = [n for n, t in types.items() if t.startswith("*") or n in WIDE]
    found = build(program, types, constants, num_warps=warps, cc=cc, divisible=divisible)
    assert not found.faults()
    return found


@every_build
def test_rows(head: bool, dtype: torch.dtype, cc: int) -> None:
    block, warps = _linear.BLOCK, _linear.NUM_WARPS
    found = built(_linear.linear_rows, dtype, cc, warps, HEAD=head, BLOCK=block)
    each = block // (32 * warps)  # elements of a thread
    # both sides in both sweeps, and their biases
    assert found.asked("ld") == 4 * (1 + head) * each // 4
    if cc != 90:
        return
    # beside them a weight and two temperatures
    assert found.loads_128 == 4 * (1 + head) * each // 4
    assert found.loads - found.loads_128 == 3
    assert found.stores - found.stores_128 <= 2  # the value
    first, second = sorted(found.loops)[-2:]
    # with a head most of it is the hyperbolic tangent of either side
    assert (first + second) / each <= (230 if head else 75), found.loops


@every_build
def test_sparse_rows(head: bool, dtype: torch.dtype, cc: int) -> None:
    block, warps = _linear.BLOCK, _linear.SPARSE_WARPS
    found = built(_linear.linear_sparse_rows, dtype, cc, warps, HEAD=head, MOST=MOST, BLOCK=block)
    each = block // (32 * warps)
    assert found.asked("ld") >= 2 * (1 + head) * each // 4
    if cc != 90:
        return
    assert found.stores - found.stores_128 <= 4  # the value, and those of listed classes
    assert found.instructions <= (2800 if head else 2100), found.instructions  # 2536, 1912
