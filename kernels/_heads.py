"""From a product of hidden states with a head to logits: a bias, a factor, a soft cap.

``HEAD`` says whether there is any of them; it is a constant of the program, since a plain head is
the rule and the hyperbolic tangent takes longer than all else. A cap of 0 is none.
"""

import triton
import triton.language as tl

from kdgraph.kernels._device import expm1


@triton.jit
def logits(product, BIAS, at, there, inside, factor, cap, HEAD: tl.constexpr):
    """``cap tanh(factor (product + bias) / cap)`` in float32; -inf outside.

    ``there`` is what may be read of the bias, ``inside`` what is a class.
    """
    x = product.to(tl.float32)
    if HEAD:
        x = (x + tl.load(BIAS + at, mask=there, other=0.0)) * factor
        if cap > 0.0:
            x = cap * tanh(x * (1.0 / cap))
    return tl.where(inside, x, float("-inf"))


@triton.jit
def slope(logit, factor, cap, HEAD: tl.constexpr):
    """By how much a logit rises with the product it came from."""
    rise = tl.full(logit.shape, 1.0, tl.float32)
    if HEAD:
        rise *= factor
        if cap > 0.0:
            share = logit * (1.0 / cap)
            rise *= 1.0 - share * share
    return rise


@triton.jit
def tanh(x):
    """By ``expm1``, so that nothing is lost near 0; 20 is where float32 has reached 1."""
    e = expm1(2.0 * tl.where(x > 20.0, 20.0, x))  # where, not minimum, which drops nan
    return e / (e + 2.0)
