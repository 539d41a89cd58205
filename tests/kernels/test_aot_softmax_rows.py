"""Every program of ``softmax_rows`` on every tile that can be chosen, of each type, for each GPU.

What may come on top (labels, a temperature of each side, rows left out) is built in with every
other one of them; ``KDGRAPH_AOT=all`` builds each with it and without.
"""

from __future__ import annotations

import os

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
EVERYTHING = os.environ.get("KDGRAPH_AOT") == "all"


def named(variant: Variant) -> str:
    plan = variant.plan
    how = ("classes", "positions")[variant.layout], "tile" if plan.one_tile else "sweep"
    of = variant.program.__name__, NAMES[variant.kind], *how, f"{plan.rows}x{plan.block}"
    return "-".join([*of, f"r{plan.registers}"] if plan.registers else of)


CASES = [
    pytest.param(variant, dtype, cc, extras, id=f"{named(variant)}-{dtype}-{cc}-{extras}")
    for i, variant in enumerate(VARIANTS)
    for j, dtype in enumerate(TYPES)
    for k, cc in enumerate(TARGETS)
    for extras in (False, True)
    if EVERYTHING or (i + j + k) % 2 == extras
]


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


@pytest.mark.parametrize(("variant", "dtype", "cc", "extras"), CASES)
def test_no_spills_and_wide_loads(variant: Variant, dtype: str, cc: int, extras: bool) -> None:
    found = built(variant, dtype, cc, extras)
    assert not found.faults(), found
    if variant.layout == CLASSES.value and variant.program is not join_rows:
        assert found.asked("ld") >= needed(variant, dtype), found
        if variant.program is rise_rows:
            assert found.asked("st") >= needed(variant, dtype) // 2, found


# Instructions of a thread for an element, in the loop of each sweep or, where there is none, in
# the whole program; bfloat16 for sm_90. What was counted stands behind.
BUDGET = {
    "whole_rows-forward-classes-tile-1x2048": (64,),  # 58.5
    "whole_rows-forward-classes-sweep-1x4096": (46,),  # 41.9
    "whole_rows-forward-positions-sweep-64x64": (57,),  # 52.3
    "rise_rows-forward-classes-sweep-1x2048": (45,),  # 41.0
    "rise_rows-forward-positions-sweep-64x64": (52,),  # 47.2
    "rise_rows-reverse-classes-sweep-1x2048": (34,),  # 31.0
    "whole_rows-mixture-classes-tile-1x2048-r224": (169,),  # 153.5
    "whole_rows-mixture-classes-sweep-1x2048-r224": (54, 112),  # 49.1, 102.2
    "whole_rows-mixture-positions-sweep-64x32-r224": (67, 120),  # 61.5, 109.1
    "rise_rows-mixture-classes-sweep-1x2048": (100,),  # 91.0
    "rise_rows-mixture-positions-sweep-64x64": (108,),  # 98.5
    "whole_rows-total_variation-classes-tile-1x2048-r224": (96,),  # 87.5
}
COUNTED = {named(variant): variant for variant in VARIANTS}


@pytest.mark.parametrize("name", BUDGET)
def test_instructions_for_an_element(name: str) -> None:
    plan = COUNTED[name].plan
    found = built(COUNTED[name], "bf16", 90, extras=False)
    elements = plan.rows * plan.block / (32 * plan.warps)
    each = [n / elements for n in found.loops or (found.instructions,)]
    assert len(each) == len(BUDGET[name])
    assert all(n <= most for n, most in zip(each, BUDGET[name], strict=True)), each
