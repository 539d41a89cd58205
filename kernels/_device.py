"""What several Triton programs compute: functions that keep their digits near zero.

Triton's interpreter has no ``libdevice``, so ``expm1`` and ``log1p`` are polynomials, fitted at
Chebyshev nodes; the relative error of each, in exact arithmetic, stands beside its coefficients.
They are compared with float64 in ``tests/kernels/test_device.py``.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-3.0e38)  # a maximum over nothing but -inf: subtracting it gives no nan


@triton.jit
def expm1_rest(x):
    """``exp(x) - 1 - x`` for ``|x| <= 1/2``; relative error 5.5e-8."""
    q = 0.00019962186343036592 * x + 0.0013982197269797325
    q = q * x + 0.008333181962370872
    q = q * x + 0.04166579246520996
    q = q * x + 0.1666666716337204
    q = q * x + 0.5
    return x * x * q


@triton.jit
def log1p_rest(y):
    """``y - log(1 + y)`` for ``-1/2 <= y <= 1``; relative error 1e-7.

    With ``r = y / (2 + y)`` it is ``r y - 2 (atanh r - r)``, because ``log(1 + y) = 2 atanh r``
    and ``y - 2 r = r y``.
    """
    r = y / (2.0 + y)
    r2 = r * r
    g = 0.13433773815631866 * r2 + 0.14116978645324707
    g = g * r2 + 0.2000383585691452
    g = g * r2 + 0.33333319425582886
    return r * y - 2.0 * r * r2 * g


@triton.jit
def expm1(x):
    """``exp(x) - 1`` for any x, without losing digits near 0."""
    small = tl.abs(x) < 0.5
    near = tl.where(small, x, 0.0)
    return tl.where(small, near + expm1_rest(near), tl.exp2(x * LOG2E) - 1.0)


@triton.jit
def log1p(y):
    """``log(1 + y)`` for any ``y > -1``, without losing digits near 0."""
    small = tl.abs(y) < 0.5
    near = tl.where(small, y, 0.0)
    return tl.where(small, near - log1p_rest(near), tl.log2(1.0 + y) * LN2)
