"""From a product of hidden states with a head to logits: a bias, a factor, a soft cap.

``FORM`` says what there is: ``PLAIN`` nothing, ``CAPPED`` a factor and a cap, ``BIASED`` a bias
before those two. A cap of 0 is none. It is a constant of the program, because reading a bias for
every row costs as much as reading the row.
"""

import triton
import triton.language as tl

from kdgraph.kernels._device import expm1

PLAIN = tl.constexpr(0)
CAPPED = tl.constexpr(1)
BIASED = tl.constexpr(2)


@triton.jit
def logits(product, BIAS, at, inside, factor, cap, FORM: tl.constexpr):
    """``cap tanh(factor (product + bias) / cap)`` in float32; -inf outside."""
    x = product.to(tl.float32)
    if FORM == 2:
        x += tl.load(BIAS + at, mask=inside, other=0.0).to(tl.float32)
    if FORM > 0:
        x *= factor
        if cap > 0.0:
            x = cap * tanh(x / cap)
    return tl.where(inside, x, float("-inf"))


@triton.jit
def slope(logit, factor, cap, FORM: tl.constexpr):
    """By how much a logit rises with the product it came from."""
    rise = tl.full(logit.shape, 1.0, tl.float32)
    if FORM > 0:
        rise *= factor
        if cap > 0.0:
            share = logit / cap
            rise *= 1.0 - share * share
    return rise


@triton.jit
def tanh(x):
    """By ``expm1``, so that nothing is lost near 0; 20 is where float32 has reached 1."""
    e = expm1(2.0 * tl.where(x > 20.0, 20.0, x))  # where, not minimum, which drops nan
    return e / (e + 2.0)
