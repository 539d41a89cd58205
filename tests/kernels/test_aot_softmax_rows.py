"""Every program of ``softmax_rows`` on every tile that can be chosen, built for GPUs.

Of each, one element type and one GPU is built here, in turn, and in turn with or without what may
come on top: labels, a temperature of each side, rows left out. ``KDGRAPH_AOT=all`` builds each for
all of them.
"""

from __future__ import annotations

import os
from itertools import product

import pytest
from aot import TARGETS, Build, build

from kdgraph.kernels import _divergence as kinds
from kdgraph.kernels._rows_launch import Variant, variants
from kdgraph.kernels._softmax_rows import CLASSES, join_rows, rise_rows

pytestmark = pytest.mark.aot

TYPES = {"bf16": 8, "fp32": 4, "fp16": 8}  # elements of 128 bits
NAMES = {
    getattr(kinds, name).value: name.lower()
    for name in ("FORWARD", "REVERSE", "MIXTURE", "TOTAL_VARIATION")
}
VARIANTS = variants()
CASES = list(product(TYPES, TARGETS, (False, True)))


def types(fn: object, dtype: str) -> dict[str, str]:
    """The type of each argument, by its name."""
    special = {"LABEL": "*i64", "KEEP": "*u8", "P": "i32", "K": "i32"}
    special |= dict.fromkeys(("S", "T", "OUT"), f"*{dtype}")
    special |= dict.fromkeys(("share", "weight_p", "weight_q"), "fp32")
    special |= {f"{at}{i}": "fp32" for at in "fg" for i in range(7)}
    return {
        name: special.get(name, "*fp32" if name.isupper() else "i32")
        for name in fn.arg_names  # type: ignore[attr-defined]
    }


def elements(variant: Variant, dtype: str) -> int:
    """That one load of a thread brings: 128 bits along classes, 32 along rows."""
    return TYPES[dtype] // (1 if variant.layout == CLASSES.value else 4)


def built(variant: Variant, dtype: str, cc: int, extras: bool) -> Build:
    plan = variant.plan
    constants = {
        "KIND": variant.kind,
        "S_LAYOUT": variant.layout,
        "T_LAYOUT": variant.layout,
        "ALIGN": elements(variant, dtype),
        "ROWS": plan.rows,
        "BLOCK": plan.block,
        "ONE_TILE": plan.one_tile,
        "LABELLED": extras,
    }
    if not extras:
        constants |= dict.fromkeys(("LABEL", "TAU_T", "KEEP"))
    fn = variant.program
    constants = {n: v for n, v in constants.items() if n in fn.arg_names}
    signature = {n: t for n, t in types(fn, dtype).items() if n not in constants}
    return build(
        fn,
        signature,
        constants,
        num_warps=plan.warps,
        maxnreg=plan.registers,
        cc=cc,
        divisible=[n for n, t in signature.items() if t[0] == "*"],
    )


def needed(variant: Variant, dtype: str) -> int:
    """How many loads a thread needs for one tile of both sides."""
    each = variant.plan.rows * variant.plan.block / (32 * variant.plan.warps)
    return int(2 * each / elements(variant, dtype))


def check(variant: Variant, dtype: str, cc: int, extras: bool) -> None:
    found = built(variant, dtype, cc, extras)
    told = f"{NAMES[variant.kind]} {variant} {dtype} sm_{cc} extras={extras}: {found}"
    assert not found.faults(), told
    if variant.layout == CLASSES.value and variant.program is not join_rows:
        assert found.loads_128 >= needed(variant, dtype), told
        if variant.program is rise_rows:
            assert found.stores_128 >= needed(variant, dtype) // 2, told


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.values())
def test_no_spills_and_wide_loads(kind: int) -> None:
    for i, variant in enumerate(VARIANTS):
        if variant.kind == kind:
            everything = os.environ.get("KDGRAPH_AOT") == "all"
            for case in CASES if everything else CASES[7 * i % len(CASES) :][:1]:
                check(variant, *case)
