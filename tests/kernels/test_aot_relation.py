"""Every program of relation, built for each target."""

from __future__ import annotations

import pytest
from aot import TARGETS, Build, build

from kdgraph.kernels._relation import Variant, variants

pytestmark = pytest.mark.aot

# Instructions of the innermost loops, per element of a tile and thread. Measured, the largest of
# the three targets: gaps 23.3 (two cosines in float64), weights 65.8 (six), squares 4.0 at ALIGN
# 8, gradient 4.0. Of a kernel of several loops the first counts.
BUDGET = {"gaps": 27, "weights": 72, "squares": 4.6, "gradient": 5}


def built(variant: Variant, cc: int) -> Build:
    names = variant.kernel.arg_names
    return build(
        variant.kernel,
        {n: t for n, t in variant.types.items() if n in names and n not in variant.constants},
        variant.constants,
        num_warps=variant.num_warps,
        cc=cc,
        divisible=[n for n in variant.divisible if n in names],
    )


def name(variant: Variant) -> str:
    told = (f"{k}={v}" for k, v in variant.constants.items())
    return "-".join([variant.kernel.__name__, variant.types.get("X", ""), *told])


@pytest.mark.parametrize("cc", TARGETS)
@pytest.mark.parametrize("variant", variants(), ids=name)
def test_it_spills_nothing_and_loads_wide(variant: Variant, cc: int) -> None:
    found = built(variant, cc)
    assert not found.faults()
    kernel, constants = variant.kernel.__name__, variant.constants
    if kernel == "pairs":
        assert found.loads_128 == found.loads
    if constants.get("ALIGN") == 8 and kernel == "gradient":
        assert found.stores_128 == found.stores
        assert found.loads_128 >= found.loads / 2  # the rest are weights, one for each row
    if constants.get("ALIGN") == 8 and kernel == "squares":
        # a program computes 32 differences per thread from 2 numbers of each side
        assert found.loads == 2
    if kernel in BUDGET and constants.get("ANGLE", True) and constants.get("ALIGN", 8) == 8:
        sizes = [constants["TILE"], constants["TILE"]]
        if kernel == "gradient":
            sizes = [constants["TILE"], constants["BLOCK"]]
        if kernel == "squares":
            sizes += [constants["BLOCK"]]
        elements = 1
        for size in sizes:
            elements *= size
        assert found.loops[0] / (elements / (32 * variant.num_warps)) <= BUDGET[kernel]
