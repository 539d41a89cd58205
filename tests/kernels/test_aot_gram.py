"""Every program of the Gram losses as it is launched, built for GPUs that need not be there.

The features lie with K contiguous (``across`` false) or with M contiguous, and are aligned to
``ALIGN`` numbers. Budgets are of instructions that a thread runs for a step of the innermost loop;
what was counted for the two layouts stands beside them.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import triton.language as tl
from aot import TARGETS, Build, build

from kdgraph.kernels import _across, _within
from kdgraph.kernels._gram import Config

pytestmark = pytest.mark.aot

FULL = "*fp32"
TYPES = {"bfloat16": "*bf16", "float16": "*fp16", "float32": FULL}
PRECISION = {"bfloat16": "tf32", "float16": "tf32", "float32": "tf32x3"}
layouts = pytest.mark.parametrize("across", [False, True], ids=["by_k", "by_m"])


def built(
    fn: Any, chosen: Config, types: dict[str, str], cc: int = 90, align: int = 8, **constants: Any
) -> Build:
    """As a launch builds it: at alignment 8 for numbers of rows and columns that 16 divides.

    Strides are taken to be multiples of ``align`` and of nothing else.
    """
    constants |= chosen.tiles
    if "ALIGN" in fn.arg_names:
        constants["ALIGN"] = align
    types = {n: types.get(n, "i32") for n in fn.arg_names if n not in constants}
    whole = {"length", "M", "K", "plane", "lines"} if align == 8 else {"length"}
    even = [n for n, t in types.items() if t[0] == "*" or n in whole]
    found = build(
        fn, types, constants, num_warps=chosen.num_warps, num_stages=chosen.num_stages, cc=cc,
        divisible=even,
    )  # fmt: skip
    assert not found.faults(), found
    return found


def products(found: Build) -> int:
    """By the matrix units that are the machine's own."""
    return {80: found.mma, 90: found.wgmma, 100: found.tcgen05}[found.cc]


def narrow(found: Build) -> int:
    """Loads of less than 128 bits."""
    loads = re.findall(r"\bLDG(?:STS)?(?:\.\w+)+", found.sass)
    return sum(".128" not in text and ".256" not in text for text in loads)


def of(configs: dict[str, Config], key: str, cc: int, align: int) -> Config:
    machine = "odd" if cc == 90 and align == 1 else str(cc)
    return configs.get(f"{key}_{machine}", configs[key])


def within(
    key: str, dtype: str, across: bool, cc: int = 90, delta: bool = False, align: int = 8
) -> Build:
    types = {"S": TYPES[dtype], "T": TYPES[dtype], "OUT": FULL}
    fn = _within.apart_grams if delta else _within.grams
    chosen = of(_within.WITHIN, key, cc, align)
    return built(fn, chosen, types, cc, align, PRECISION="tf32x3", ACROSS=across)


def product(key: str, dtype: str, across: bool, cc: int = 90, align: int = 8) -> Build:
    w = TYPES[dtype] if dtype == "bfloat16" else FULL
    types = {"W": w, "X": TYPES[dtype], "GRAD": FULL, "OUT": TYPES[dtype]}
    return built(
        _within.product, of(_within.PRODUCT, key, cc, align), types, cc, align,
        PRECISION=PRECISION[dtype], ACROSS=across,
    )  # fmt: skip


def across_(dtype: str, across: bool, cc: int = 90, align: int = 8) -> Build:
    key = dtype if dtype == "bfloat16" else PRECISION[dtype]
    types = {"S": TYPES[dtype], "T": TYPES[dtype], "STATS": FULL, "OUT": FULL}
    operand = tl.bfloat16 if dtype == "bfloat16" else tl.float32
    return built(
        _across.across, of(_across.ACROSS, key, cc, align), types, cc, align, OPERAND=operand,
        PRECISION=PRECISION[dtype], ACROSS=across,
    )  # fmt: skip


def back(dtype: str, across: bool, cc: int = 90, align: int = 8, of_teacher: bool = False) -> Build:
    key = dtype if dtype == "bfloat16" else PRECISION[dtype]
    side, operand = TYPES[dtype], TYPES[dtype] if dtype == "bfloat16" else FULL
    types = {"S": side, "T": side, "FIRST": operand, "SECOND": operand}
    types |= dict.fromkeys(("STATS", "GRAD", "OUT", "ALONG"), FULL)
    return built(
        _across.back, of(_across.BACK, key, cc, align), types, cc, align, TEACHER=of_teacher,
        PRECISION=PRECISION[dtype], ACROSS=across,
    )  # fmt: skip


@layouts
@pytest.mark.parametrize(
    ("key", "dtype", "delta", "budget"),
    [
        ("half", "bfloat16", False, 130),  # 106, 115
        ("half_small", "float16", False, 130),  # 104, 110
        ("float32", "float32", True, 1000),  # 851, 903
        ("float32", "float32", False, 310),  # 252, 273
    ],
)
def test_grams(key: str, dtype: str, delta: bool, budget: int, across: bool) -> None:
    found = within(key, dtype, across, delta=delta)
    assert found.wgmma
    assert not narrow(found)
    assert found.stores_128 == found.stores
    assert max(found.loops) <= budget, found


@layouts
@pytest.mark.parametrize(
    ("key", "dtype", "budget"),
    [
        ("bfloat16", "bfloat16", 140),  # 119, 91
        ("bfloat16_small", "bfloat16", 140),  # 124, 92
        ("float16", "float16", 155),  # 140, 108
        ("float32", "float32", 520),  # 465, 425
    ],
)
def test_products(key: str, dtype: str, budget: int, across: bool) -> None:
    found = product(key, dtype, across)
    assert found.wgmma
    assert narrow(found) == 1  # grad
    assert found.stores_128 == found.stores
    assert max(found.loops) <= budget, found


@layouts
@pytest.mark.parametrize(
    ("dtype", "budget"),
    [
        ("bfloat16", 400),  # 351, 344
        ("float16", 680),  # 608, 611
        ("float32", 1060),  # 949, 908
    ],
)
def test_products_across(dtype: str, budget: int, across: bool) -> None:
    found = across_(dtype, across)
    assert found.wgmma
    assert found.loads_128
    assert found.stores_128 == found.stores
    assert max(found.loops) <= budget, found


@layouts
@pytest.mark.parametrize(
    ("dtype", "budget"),
    [
        ("bfloat16", 430),  # 390, 401
        ("float16", 470),  # 426, 401
        ("float32", 730),  # 625, 654
    ],
)
def test_gradients_across(dtype: str, budget: int, across: bool) -> None:
    found = back(dtype, across, of_teacher=across)
    assert found.wgmma
    assert found.loads_128
    assert found.stores_128 == found.stores - 1  # but what lies along the rows
    assert max(found.loops) <= budget, found


@pytest.mark.parametrize(("cosine", "delta"), [(False, True), (True, True), (True, False)])
def test_rows_and_weights(cosine: bool, delta: bool) -> None:
    types = dict.fromkeys(("G", "STATS", "VALUES", "GRAD"), FULL)
    found = built(_within.rows, _within.ROWS, types, COSINE=cosine, DELTA=delta)
    assert found.loads_128
    kind = {"COSINE": cosine, "DELTA": delta, "TEACHER": delta}
    for operand, precision in (("*bf16", "tf32"), (FULL, "tf32"), (FULL, "tf32x3")):
        types["W"] = operand
        found = built(_within.weights, _within.WEIGHTS, types, PRECISION=precision, **kind)
        assert found.loads_128
        assert found.stores_128 == found.stores


@layouts
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_lengths_and_projection(dtype: str, across: bool) -> None:
    types = {"S": TYPES[dtype], "T": TYPES[dtype], "STATS": FULL}
    found = built(_across.lengths, _across.LENGTHS, types, ACROSS=across)
    assert not narrow(found)
    types = {"X": TYPES[dtype], "OUT": TYPES[dtype]}
    types |= dict.fromkeys(("STATS", "GRAD", "ALONG", "RAW"), FULL)
    lie = {"ACROSS": across, "TEACHER": across}
    found = built(_across.project, _across.PROJECT, types, **lie)
    assert found.stores_128 == found.stores


def test_value() -> None:
    found = built(_across.value, _across.VALUE, {"PQR": FULL, "VALUES": FULL})
    assert not narrow(found)


@pytest.mark.parametrize("cc", [c for c in TARGETS if c != 90])
@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (within, ("half", "bfloat16")),
        (within, ("half_small", "float16")),
        (product, ("bfloat16", "bfloat16")),
        (product, ("bfloat16_small", "bfloat16")),
        (product, ("float16", "float16")),
        (product, ("float32", "float32")),
        (across_, ("bfloat16",)),
        (across_, ("float16",)),
        (across_, ("float32",)),
        (back, ("bfloat16",)),
        (back, ("float16",)),
        (back, ("float32",)),
    ],
)
def test_other_machines(fn: Any, args: tuple[str, ...], cc: int) -> None:
    assert products(fn(*args, across=True, cc=cc))


@pytest.mark.parametrize("cc", [c for c in TARGETS if c != 90])
@pytest.mark.parametrize("delta", [False, True])
def test_grams_of_other_machines(cc: int, delta: bool) -> None:
    assert products(within("float32", "float32", across=True, cc=cc, delta=delta))


@pytest.mark.parametrize("align", [1, 4])
def test_7_x_7_and_14_x_14_pixels(align: int) -> None:
    """49 numbers in a row are loaded one by one, 196 of 16 bits by four."""
    for key, dtype in (("half", "bfloat16"), ("float32", "float32")):
        found = within(key, dtype, across=False, delta=dtype == "float32", align=align)
        assert found.wgmma
        wide = ".128" if dtype == "float32" else ".64"
        loads = re.findall(r"\bLDG(?:STS)?(?:\.\w+)+", found.sass)
        assert all(wide in text for text in loads) == (align == 4)
    assert product("bfloat16", "bfloat16", across=False, align=align).wgmma


@layouts
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_odd_numbers_of_channels(dtype: str, across: bool) -> None:
    assert across_(dtype, across, align=1).wgmma
    assert back(dtype, across, align=1).wgmma


def test_an_odd_number_of_rows() -> None:
    types = dict.fromkeys(("G", "STATS", "VALUES", "GRAD", "W"), FULL)
    for cosine in (False, True):
        built(_within.rows, _within.ROWS, types, align=1, COSINE=cosine, DELTA=True)
        built(
            _within.weights, _within.WEIGHTS, types, align=1, COSINE=cosine, DELTA=True,
            TEACHER=cosine, PRECISION="tf32",
        )  # fmt: skip
