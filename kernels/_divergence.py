"""Divergences between two rows of logits, in one sweep where the mathematics allows it.

With ``p = softmax(t / tau_t)`` of the teacher, ``q = softmax(s / tau_s)`` of the student,
``d = log q - log p`` and ``e = q / p - 1`` each is ``sum_k p f(e)``, with the gradient

    g_j = q_j / tau_s (phi_j - sum_k q_k phi_k),   phi = f'(e).

=================  ==============================================  ============================
kind               f                                               phi
=================  ==============================================  ============================
FORWARD            ``e - log(1 + e)``                              ``1 - p / q``: ``g = q - p``
REVERSE            ``(1 + e) log(1 + e) - e``                      ``d``
MIXTURE            ``w_p KL(p || m) + w_q KL(q || m)``,            see ``mixture``
                   ``m = (1 - b) p + b q``
TOTAL_VARIATION    ``|e| / 2``                                     ``sign(d) / 2``
=================  ==============================================  ============================

**The digits.** At a high temperature, or late in training, ``d`` is tiny and comes out of a
difference of two log-sum-exps as rounding. Call the side that the sum weighs by the first, its
weights ``w``, and let ``u`` be first minus second logits over tau: subtracted before they are
divided where the temperatures are equal, which is exact for close numbers. With ``c`` the weighted
mean of u and ``v = u - c``,

    KL(first || second) = log(1 + A),   A = E_w[v + exp(-v) - 1],
    log second - log first = -(v + KL),

because ``E_w[exp(-v)] = 1 + A`` where ``E_w[v] = 0``. No term of A is negative, and each is summed
from its own series where v is small, so nothing cancels. Where KL is at least 0.4 the difference
of log-sum-exps loses nothing and covers masked classes, so that is used. Blocks of a row are
merged with their means (``merge``), in a fixed order; what is kept of a row is ``STATS`` numbers.

Tiles are [ROWS, BLOCK]; rows are [B, P], classes K. Exponentials are base 2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import triton
import triton.language as tl

from kdgraph.kernels._device import LN2, LOG2E, LOWEST, expm1_rest, log1p_rest

FORWARD = tl.constexpr(0)
REVERSE = tl.constexpr(1)
MIXTURE = tl.constexpr(2)
TOTAL_VARIATION = tl.constexpr(3)


@triton.jit
def pair(s, t, KIND: tl.constexpr):
    """First and second of (student, teacher) or of what belongs to them."""
    first, second = t, s
    if KIND == REVERSE:
        first, second = s, t
    return first, second


@triton.jit
def apart(x1, x2, m1, m2, r1, r2, SAME: tl.constexpr):
    """u, with both sides counted from their maxima."""
    u = (x1 - m1) * r1 - (x2 - m2) * r2
    if SAME:
        u = ((x1 - x2) - (m1 - m2)) * r1
    return u


@triton.jit
def block(x1, x2, r1, r2, SAME: tl.constexpr):
    """Maxima, sums, c and A (not yet divided by the first sum) of a tile, each [ROWS]."""
    m1 = tl.maximum(tl.max(x1, 1), LOWEST)
    m2 = tl.maximum(tl.max(x2, 1), LOWEST)
    w1 = tl.exp2((x1 - m1[:, None]) * (r1 * LOG2E)[:, None])
    w2 = tl.exp2((x2 - m2[:, None]) * (r2 * LOG2E)[:, None])
    u = apart(x1, x2, m1[:, None], m2[:, None], r1[:, None], r2[:, None], SAME)
    u = tl.where(w1 > 0, u, 1e30)  # far away, finite, and of no weight
    z1 = tl.sum(w1, 1)
    z2 = tl.sum(w2, 1)
    c = tl.sum(w1 * u, 1) / z1
    v = u - c[:, None]
    # w1 exp(-v) is w2 exp(c): far from 0 from what is known, whatever either side masks
    lift = tl.exp2(tl.minimum(c * LOG2E, 100.0))
    far = w1 * (v - 1.0) + w2 * lift[:, None]
    a = tl.sum(tl.where(tl.abs(v) < 0.5, w1 * expm1_rest(-v), far), 1)
    return m1, z1, m2, z2, c, a


@triton.jit
def moved(m1, z1, m2, z2, c, n1, n2, r1, r2, SAME: tl.constexpr):
    """Sums and c counted from other maxima, and the factor of the first sum."""
    f1 = tl.exp2((m1 - n1) * (r1 * LOG2E))
    f2 = tl.exp2((m2 - n2) * (r2 * LOG2E))
    z1 = z1 * f1
    c = tl.where(z1 > 0, c + apart(m1, m2, n1, n2, r1, r2, SAME), 0.0)
    return z1, z2 * f2, c, f1


@triton.jit
def centred(z1, z2, c, a, f1, centre, lift):
    """A of a piece, about another c: ``a`` about its own, the rest already moved."""
    shift = centre - c
    rest = expm1_rest(shift)
    own = a * f1
    near = own + own * (shift + rest) + z1 * rest
    far = tl.where(z1 > 0, z1 * (-shift - 1.0), 0.0) + z2 * lift
    return tl.where((tl.abs(shift) < 0.5) & (own < z1), near, far)


@triton.jit
def merge(m1, z1, m2, z2, c, a, om1, oz1, om2, oz2, oc, oa, r1, r2, SAME: tl.constexpr):
    """Two pieces of a row as one."""
    n1 = tl.maximum(m1, om1)
    n2 = tl.maximum(m2, om2)
    z1, z2, c, f = moved(m1, z1, m2, z2, c, n1, n2, r1, r2, SAME)
    oz1, oz2, oc, of = moved(om1, oz1, om2, oz2, oc, n1, n2, r1, r2, SAME)
    sum1 = z1 + oz1
    centre = tl.where(z1 > 0, z1 * c, 0.0) + tl.where(oz1 > 0, oz1 * oc, 0.0)
    centre = centre / sum1
    lift = tl.exp2(tl.minimum(centre * LOG2E, 100.0))
    a = centred(z1, z2, c, a, f, centre, lift) + centred(oz1, oz2, oc, oa, of, centre, lift)
    return n1, sum1, n2, z2 + oz2, centre, a


@triton.jit
def log_of(z):
    """log2 of a sum of weights up to 1; nan where a nan hid among the logits."""
    return tl.where(z < 1e38, tl.log2(z), float("nan"))


@triton.jit
def finished(z1, z2, c, a):
    """log2 of the sums, and c, KL for ``log_ratio``, and KL; the two differ where c is inf."""
    l1 = log_of(z1)
    l2 = log_of(z2)
    between = (l2 - l1) * LN2
    mean = a / z1
    near = (tl.abs(between + c) < 0.4) & (mean < 0.5)
    kl = tl.where(near, mean - log1p_rest(mean), between + c)
    return l1, l2, tl.where(near, c, 0.0), tl.where(near, kl, between), kl


@triton.jit
def log_ratio(x1, x2, m1, m2, r1, r2, c, kl, KIND: tl.constexpr, SAME: tl.constexpr):
    """``log q - log p`` of the student's q and the teacher's p; nan where both are 0."""
    u = apart(x1, x2, m1[:, None], m2[:, None], r1[:, None], r2[:, None], SAME)
    d = (u - c[:, None]) + kl[:, None]
    if KIND != REVERSE:
        d = -d
    return d


@triton.jit
def probability(x, m, r, log_sum):
    return tl.exp2((x - m[:, None]) * (r * LOG2E)[:, None] - log_sum[:, None])


@functools.lru_cache
def series(share: float, weight_p: float, weight_q: float) -> tuple[float, ...]:
    """``f / d**2`` and ``phi / d`` of a mixture as polynomials of d, for ``|d| <= 1/2``.

    Fitted at Chebyshev nodes. Both functions are analytic for ``|d| < pi``, since ``m = 0`` asks
    for ``exp(d) = -(1 - b) / b``: 7 coefficients leave an error of 1e-7 for any share.
    """
    a, b = 1 - share, share

    def value(d: float) -> float:
        e = math.expm1(d)
        log_mp = math.log1p(b * e)
        to_p, to_q = b * e - log_mp, (1 + e) * (d - log_mp) - a * e
        return (weight_p * to_p + weight_q * to_q) / d**2

    def slope(d: float) -> float:
        y = b * math.expm1(d)
        log_mp, ratio = math.log1p(y), y / (1 + y)
        return (weight_p * b * ratio - weight_q * (log_mp - d + a * ratio)) / d

    return (*_fitted(value), *_fitted(slope))


def _fitted(f: Callable[[float], float], terms: int = 7, nodes: int = 16) -> list[float]:
    """Coefficients, the constant first, of a polynomial close to f on [-1/2, 1/2]."""
    angles = [(j + 0.5) * math.pi / nodes for j in range(nodes)]
    values = [f(0.5 * math.cos(t)) for t in angles]
    out = [0.0] * terms
    now, after = [1.0], [0.0, 2.0]  # Chebyshev polynomials of 2 d
    for k in range(terms):
        weight = 2 / nodes * sum(v * math.cos(k * t) for v, t in zip(values, angles, strict=True))
        for i, n in enumerate(now):
            out[i] += n * (weight if k else weight / 2)
        following = [0.0, *(4 * n for n in after)]
        for i, n in enumerate(now):
            following[i] -= n
        now, after = after, following
    return out


@triton.jit
def polynomial(x, c):
    """``c[0] + c[1] x + ...`` of seven coefficients."""
    y = c[6] * x + c[5]
    y = y * x + c[4]
    y = y * x + c[3]
    y = y * x + c[2]
    y = y * x + c[1]
    return y * x + c[0]


@triton.jit
def mixture(p, q, d, weights, f_of, phi_of):
    """``p f`` and phi of ``weight_p KL(p || m) + weight_q KL(q || m)``, ``m = a p + b q``.

    Near 0 by ``series``, else from ``m - p - p log(m / p)``, ``m - q - q log(m / q)`` and
    ``weight_p b (1 - p / m) - weight_q (log(m / q) + a (1 - p / m))``.
    """
    b, weight_p, weight_q = weights
    a = 1.0 - b
    near = tl.abs(d) < 0.5
    small = tl.where(near, d, 0.0)
    # d is nan only where both are 0; the exponential of 100 is all there is between the two
    wide = tl.where(d != d, 0.0, tl.minimum(tl.maximum(d, -100.0), 100.0))
    h = tl.exp2(-tl.abs(wide) * LOG2E)
    more = wide > 0
    over = tl.where(more, a * h + b, b * h + a)  # m over the larger of p and q
    log_over = tl.log2(over)
    excess = b * (1.0 - h) * tl.exp2(-log_over)
    excess = tl.where(more, excess, -excess)  # 1 - p / m
    log_mp = log_over * LN2 + tl.maximum(wide, 0.0)
    log_mq = log_over * LN2 - tl.minimum(wide, 0.0)
    far = weight_p * (b * (q - p) - p * log_mp) + weight_q * (a * (p - q) - q * log_mq)
    value = tl.where(near, p * small * small * polynomial(small, f_of), far)
    far_phi = weight_p * b * excess - weight_q * (log_mq + a * excess)
    return value, tl.where(near, small * polynomial(small, phi_of), far_phi)


@triton.jit
def variation(p, q, d):
    """``p f`` of the total variation, and q where it is larger and where it is smaller than p."""
    near = tl.abs(d) < 0.5
    small = tl.where(near, d, 0.0)
    more = tl.where(near, p * (small + expm1_rest(small)), q - p)
    half = q * 0.5  # where they are equal
    return (
        tl.abs(more) * 0.5,
        tl.where(d > 0, q, tl.where(d < 0, 0.0, half)),
        tl.where(d < 0, q, tl.where(d > 0, 0.0, half)),
    )


@triton.jit
def terms(p, q, d, weights, f_of, phi_of, KIND: tl.constexpr):
    """What to sum: ``p f``, and three things for ``mean_of``, the last of a mixture alone."""
    if KIND == TOTAL_VARIATION:
        value, plus, minus = variation(p, q, d)
        top = plus
    else:
        value, phi = mixture(p, q, d, weights, f_of, phi_of)
        most = q > 0.5
        plus = tl.where(most, 0.0, q * phi)
        minus = tl.where(most, 0.0, q)
        top = tl.where(most, phi, 0.0)
    return value, plus, minus, top


@triton.jit
def mean_of(plus, minus, top, l1, l2, KIND: tl.constexpr):
    """What ``rise`` takes, from the sums of ``terms``. Nan where a sum of the row is.

    For the variation that is ``sum q sign(d) / 2``, told by the smaller of the two shares and, in
    its sign, by which it is: where one class has nearly all, the other share is what is left of
    phi less its mean, and no rounding of 1 may reach it. For a mixture it is the mean of phi less
    ``top``, the phi of the class that has more than half of q, or 0: of that class nothing is
    left but what the others have, so it is their sum.
    """
    if KIND == TOTAL_VARIATION:
        plus = tl.where(plus == minus, 0.5, tl.where(plus < minus, plus, -minus))
    else:
        plus -= minus * top
    return tl.where(l1 + l2 == l1 + l2, plus, float("nan"))


@triton.jit
def rise(p, q, d, mean, top, weights, f_of, phi_of, KIND: tl.constexpr):
    """``q (phi - sum_k q_k phi_k)``; that sum is ``mean + top``, top is 0 but for a mixture."""
    mean = mean[:, None]
    if KIND == FORWARD:
        near = tl.abs(d) < 0.5
        small = tl.where(near, d, 0.0)
        out = tl.where(near, p * (small + expm1_rest(small)), q - p)
    elif KIND == TOTAL_VARIATION:
        plus = tl.where(mean >= 0, mean, 1.0 + mean)
        minus = tl.where(mean >= 0, 1.0 - mean, -mean)
        out = q * tl.where(d > 0, minus, tl.where(d < 0, -plus, (minus - plus) * 0.5))
    else:
        own = d - mean
        if KIND == MIXTURE:
            _, phi = mixture(p, q, d, weights, f_of, phi_of)
            # 3/4: far enough from the 1/2 of ``terms`` for no rounding to tell them apart
            own = tl.where(q > 0.75, -mean, (phi - top[:, None]) - mean)
        # where: a class without q may have phi = -inf
        out = tl.where(q == 0, 0.0, q * own)
    return out
