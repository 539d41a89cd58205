from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from kdgraph.kernels import _device
from kdgraph.kernels._divergence import polynomial, series

SIZE = 1024


@triton.jit
def _each(X, OUT, FUNCTION: tl.constexpr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(OUT + at, FUNCTION(tl.load(X + at)))


@triton.jit
def _polynomial(X, OUT, c0, c1, c2, c3, c4, c5, c6, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(OUT + at, polynomial(tl.load(X + at), (c0, c1, c2, c3, c4, c5, c6)))


def near(low: float, high: float) -> Tensor:
    """Numbers between the two, and many close to 0."""
    spread = torch.linspace(low, high, SIZE // 2)
    return torch.cat([spread, spread * 10 ** -torch.linspace(1, 7, SIZE // 2)])


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("expm1_rest", -0.5, 0.5),
        ("log1p_rest", -0.5, 1.0),
        ("expm1", -30.0, 30.0),
        ("log1p", -0.9, 1e4),
    ],
)
def test_digits(name: str, low: float, high: float) -> None:
    x = near(low, high)
    wide = x.to(torch.float64).numpy().astype(np.longdouble)
    exact: Any = np.expm1(wide) if name.startswith("expm1") else np.log1p(wide)
    if name == "expm1_rest":
        exact = exact - wide
    elif name == "log1p_rest":
        exact = wide - exact
    # float64 itself loses the rests of tiny numbers: their series is x**2 / 2
    tiny = np.abs(wide) < 1e-5
    rest = wide**2 / 2 * (1 + wide * (1 / 3 if name == "expm1_rest" else -2 / 3))
    exact = np.where(tiny & name.endswith("rest"), rest, exact)
    out = torch.empty_like(x)
    _each[(1,)](x, out, FUNCTION=getattr(_device, name), SIZE=SIZE)
    off = np.abs(out.double().numpy() - exact) / np.maximum(np.abs(exact), 1e-30)
    assert float(off.max()) < (4e-6 if name == "expm1" else 6e-7)  # exp(30): 30 times rounding


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("weights", ["p", "q", "both"])
def test_series_of_a_mixture(share: float, weights: str) -> None:
    of_p, of_q = {"p": (1.0, 0.0), "q": (0.0, 1.0), "both": (1 - share, share)}[weights]
    d = torch.linspace(-0.5, 0.5, SIZE)
    found = [torch.empty_like(d) for _ in range(2)]
    numbers = series(share, of_p, of_q)
    for out, c in zip(found, (numbers[:7], numbers[7:]), strict=True):
        _polynomial[(1,)](d, out, *c, SIZE=SIZE)
    for i in range(0, SIZE, 100):
        x = float(d[i])
        e = math.expm1(x)
        y, a = share * e, 1 - share
        value = of_p * (y - math.log1p(y)) + of_q * ((1 + e) * (x - math.log1p(y)) - a * e)
        slope = of_p * share * y / (1 + y) - of_q * (math.log1p(y) - x + a * y / (1 + y))
        assert float(found[0][i]) == pytest.approx(value / x**2, rel=1e-6)
        assert float(found[1][i]) == pytest.approx(slope / x, rel=1e-6)
