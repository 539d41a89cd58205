"""The programs of ``sparse_rows``, built for GPUs that need not be there.

Each is built for one of them, in turn; ``KDGRAPH_AOT=all`` builds each for all of them.
"""

from __future__ import annotations

import os
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
# Of the whole program. Most of it, some 1000, is what the listed classes take in float64, once
# for each row.
BUDGET = {"sparse_rows": 1900, "sparse_gradient": 1500}


def named(one: Any) -> str:
    return f"{str(one.dtype).removeprefix('torch.')}-{one.align}"


EVERYTHING = os.environ.get("KDGRAPH_AOT") == "all"
CASES = [
    pytest.param(name, one, cc, id=f"{name}-{named(one)}-{cc}")
    for n, name in enumerate(BUDGET)
    for i, one in enumerate(_rows.BUILDS)
    for j, cc in enumerate(TARGETS)
    if EVERYTHING or (n + i + i // 3) % 3 == j
]


@pytest.mark.parametrize(("name", "one", "cc"), CASES)
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
    assert found.instructions <= BUDGET[name], found.instructions
    if one.align > 1:
        wide = _rows.BLOCK // (32 * _rows.NUM_WARPS) // one.align
        assert found.loads_128 >= wide
        if name == "sparse_gradient":
            assert found.stores - found.stores_128 <= 2  # those of listed classes
