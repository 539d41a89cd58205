"""The programs of ``sparse_rows``, built for GPUs that need not be there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from aot import TARGETS, build

from kdgraph.kernels.sparse_rows import MOST

pytestmark = pytest.mark.aot
_rows = pytest.importorskip("kdgraph.kernels._sparse_rows")

TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
NUMBERS = dict.fromkeys(("V", "L", "k", "s0", "s1", "sc", "step", "bucket"), "i32")
POINTERS = {
    "IDS": "*i32", "LOG_P": "*fp64", "TAU": "*fp32", "LOSS": "*fp32", "REST": "*fp64",
    "GRAD": "*fp32",
}  # fmt: skip
# Of the whole program for sm_90; counted for float32, aligned and not: 2320 and 2480, 1104 and
# 1272. Some 1000 of each are what the listed classes take in float64, once for each row, and some
# 600 of the first the exponentials in float64 of a block that counts.
BUDGET = {"sparse_rows": 2700, "sparse_gradient": 1400}


def named(one: Any) -> str:
    return f"{str(one.dtype).removeprefix('torch.')}-{one.align}"


@pytest.mark.parametrize("cc", TARGETS)
@pytest.mark.parametrize("one", _rows.BUILDS, ids=named)
@pytest.mark.parametrize("name", BUDGET)
def test_builds(name: str, one: Any, cc: int) -> None:
    program = getattr(_rows, name)
    types = POINTERS | NUMBERS | {"Z": TYPES[one.dtype], "G": TYPES[one.dtype]}
    types = {n: t for n, t in types.items() if n in program.arg_names}
    found = build(
        program,
        types,
        {"ALIGN": one.align, "MOST": MOST, "BLOCK": _rows.BLOCK},
        num_warps=_rows.NUM_WARPS,
        cc=cc,
        divisible=[n for n, t in types.items() if t.startswith("*")],
    )
    assert not found.faults()
    if one.align > 1:
        wide = _rows.BLOCK // (32 * _rows.NUM_WARPS) // one.align
        assert found.asked("ld") >= wide
    if cc == 90:
        assert found.instructions <= BUDGET[name], found.instructions
        if one.align > 1 and name == "sparse_gradient":
            assert found.stores - found.stores_128 <= 2  # those of listed classes
