"""The programs behind ``softmax_rows``: one value per row of logits, and its gradient.

Rows are [B, P] and classes K, with any strides: row (b, p) starts at ``b x_b + p x_p`` and class k
lies ``k x_k`` behind it. So [N, K], [B, L, K], maps [B, K, H, W] and maps whose softmax goes over
the pixels, in either memory format, are one program with other strides and other tiles
[ROWS, BLOCK]. What a tile computes is in ``_divergence.py``.

* **One tile** holds the row: everything is read once. Up to 4096 classes.
* **Sweeps**: blocks of a row are merged. KL in either direction needs one sweep; what has to know
  the divergence of the row before it looks at a class needs a second, which finds a short row in
  the cache.
* **Split**: where rows are few and long, several programs take a piece of a row each, and their
  results are merged in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kdgraph.kernels._device import LN2, LOG2E, LOWEST
from kdgraph.kernels._divergence import (
    FORWARD,
    MIXTURE,
    REVERSE,
    block,
    finished,
    log_of,
    log_ratio,
    mean_of,
    merge,
    pair,
    probability,
    rise,
    terms,
)

CLASSES = tl.constexpr(0)  # neighbouring classes are neighbours in memory
POSITIONS = tl.constexpr(1)  # neighbouring rows are
STRIDED = tl.constexpr(2)  # neither

NUMBERS = (
    *("P", "K", "rows", "piece", "pieces", "ignore", "tau_s_row", "tau_t_row"),
    *(f"{x}_{at}" for x in "sto" for at in "bpk"),
)

# Of each row, STATS numbers: maxima and log2 of the sums of both sides, c and KL as in
# ``_divergence``, the mean of phi under q, log2 of the student's sum at temperature 1, and of a
# mixture the phi that the mean is counted from.
PARTIAL = 7  # of a piece of a row: what ``merge`` takes, and the student's sum at temperature 1


@triton.jit
def _at(side, b, pos, k, LAYOUT: tl.constexpr, ALIGN: tl.constexpr, EACH: tl.constexpr):
    """Addresses of a tile, or of one class in EACH row.

    Strides come divided by ALIGN, which tells how wide a load may be.
    """
    X, x_b, x_p, x_k = side
    X += b * (x_b.to(tl.int64) * ALIGN)
    if LAYOUT != POSITIONS:
        pos = pos.to(tl.int64) * (x_p.to(tl.int64) * ALIGN)
    if LAYOUT != CLASSES:
        k = k.to(tl.int64) * (x_k.to(tl.int64) * ALIGN)
    if not EACH:
        pos = pos[:, None]
        k = k[None, :]
    return X + pos + k


@triton.jit
def _tile(side, b, pos, k, live, K, LAYOUT: tl.constexpr, ALIGN: tl.constexpr):
    at = _at(side, b, pos, k, LAYOUT, ALIGN, False)
    return tl.load(at, mask=live[:, None] & (k < K)[None, :], other=-float("inf")).to(tl.float32)


@triton.jit
def _rows_of(P, pid, ROWS: tl.constexpr):
    """Which rows a program has: sample, positions, places in [B, P], and which there are."""
    tiles = tl.cdiv(P, ROWS)
    b = (pid // tiles).to(tl.int64)
    pos = (pid % tiles) * ROWS + tl.arange(0, ROWS)
    return b, pos, b * P + pos, pos < P


@triton.jit
def _sizes(P, K, S_LAYOUT: tl.constexpr, T_LAYOUT: tl.constexpr, ALIGN: tl.constexpr):
    """Numbers of positions and classes; the one that loads run along comes divided by ALIGN."""
    if S_LAYOUT == POSITIONS or T_LAYOUT == POSITIONS:
        P *= ALIGN
    if S_LAYOUT == CLASSES or T_LAYOUT == CLASSES:
        K *= ALIGN
    return P, K


@triton.jit
def _wanted(KEEP, row, there):
    if KEEP is not None:
        there = there & (tl.load(KEEP + row, mask=there, other=0) != 0)
    return there


@triton.jit
def _read(there, wanted, S_LAYOUT: tl.constexpr, T_LAYOUT: tl.constexpr):
    """Which rows to read. A load along rows reads what lies between those that are wanted."""
    if S_LAYOUT == POSITIONS or T_LAYOUT == POSITIONS:
        wanted = there
    return wanted


@triton.jit
def _rates(TAU_S, TAU_T, tau_s_row, tau_t_row, row, live):
    """One over each temperature, [ROWS]; the teacher's is the student's where it has none."""
    r_s = 1.0 / tl.load(TAU_S + row * tau_s_row, mask=live, other=1.0)
    r_t = r_s
    if TAU_T is not None:
        r_t = 1.0 / tl.load(TAU_T + row * tau_t_row, mask=live, other=1.0)
    return r_s, r_t


@triton.jit
def _student(first, second, KIND: tl.constexpr):
    """The student's of (first, second)."""
    if KIND == REVERSE:
        second = first
    return second


@triton.jit
def _ordinary(s, m_s):
    """The student's sum at temperature 1, from its maxima."""
    return tl.sum(tl.exp2((s - m_s[:, None]) * LOG2E), 1)


@triton.jit
def _sum_of(sum1, m1, sum2, m2):
    """Two such sums as one, from the larger maximum."""
    m = tl.maximum(m1, m2)
    return sum1 * tl.exp2((m1 - m) * LOG2E) + sum2 * tl.exp2((m2 - m) * LOG2E)


@triton.jit
def _nothing(ROWS: tl.constexpr):
    """The piece of a row that has no class."""
    none = tl.full((ROWS,), LOWEST, tl.float32)
    zero = tl.zeros((ROWS,), tl.float32)
    return none, zero, none, zero, zero, zero


@triton.jit
def _sweep(
    student, teacher, b, pos, live, K, first, last, r1, r2, KIND: tl.constexpr,
    SAME: tl.constexpr, LABELLED: tl.constexpr, S_LAYOUT: tl.constexpr, T_LAYOUT: tl.constexpr,
    ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Classes [first, last) as one piece, and the student's sum at temperature 1."""
    m1, z1, m2, z2, c, a = _nothing(ROWS)
    ordinary = tl.zeros((ROWS,), tl.float32)
    for start in range(first, last, BLOCK):
        k = start + tl.arange(0, BLOCK)
        s = _tile(student, b, pos, k, live, K, S_LAYOUT, ALIGN)
        t = _tile(teacher, b, pos, k, live, K, T_LAYOUT, ALIGN)
        x1, x2 = pair(s, t, KIND)
        n1, y1, n2, y2, mid, area = block(x1, x2, r1, r2, SAME)
        if LABELLED:
            m_s = _student(n1, n2, KIND)
            ordinary = _sum_of(ordinary, _student(m1, m2, KIND), _ordinary(s, m_s), m_s)
        m1, z1, m2, z2, c, a = merge(m1, z1, m2, z2, c, a, n1, y1, n2, y2, mid, area, r1, r2, SAME)
    return m1, z1, m2, z2, c, a, ordinary


@triton.jit
def _looked_at(
    s, t, m1, l1, m2, l2, r1, r2, c, kl, weights, f_of, phi_of, KIND: tl.constexpr,
    SAME: tl.constexpr,
):  # fmt: skip
    """``terms`` of a tile."""
    x1, x2 = pair(s, t, KIND)
    d = log_ratio(x1, x2, m1, m2, r1, r2, c, kl, KIND, SAME)
    p = probability(x1, m1, r1, l1)
    q = probability(x2, m2, r2, l2)
    return terms(p, q, d, weights, f_of, phi_of, KIND)


@triton.jit
def _second_sweep(
    student, teacher, b, pos, live, K, first, last, m1, l1, m2, l2, r1, r2, c, kl, weights, f_of,
    phi_of, KIND: tl.constexpr, SAME: tl.constexpr, S_LAYOUT: tl.constexpr,
    T_LAYOUT: tl.constexpr, ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Their sums over classes [first, last)."""
    value = tl.zeros((ROWS, BLOCK), tl.float32)
    plus = tl.zeros((ROWS, BLOCK), tl.float32)
    minus = tl.zeros((ROWS,), tl.float32)  # a third tile would take too many registers
    top = tl.zeros((ROWS,), tl.float32)
    for start in range(first, last, BLOCK):
        k = start + tl.arange(0, BLOCK)
        s = _tile(student, b, pos, k, live, K, S_LAYOUT, ALIGN)
        t = _tile(teacher, b, pos, k, live, K, T_LAYOUT, ALIGN)
        more_value, more_plus, more_minus, more_top = _looked_at(
            s, t, m1, l1, m2, l2, r1, r2, c, kl, weights, f_of, phi_of, KIND, SAME
        )
        value += more_value
        plus += more_plus
        minus += tl.sum(more_minus, 1)
        if KIND == MIXTURE:
            top += tl.sum(more_top, 1)
    return tl.sum(value, 1), tl.sum(plus, 1), minus, top


@triton.jit
def _write_stats(STATS_OUT, row, rows, there, live, m1, l1, m2, l2, c, kl):
    tl.store(STATS_OUT + row, tl.where(live, m1, 0.0), mask=there)
    tl.store(STATS_OUT + rows + row, tl.where(live, l1, 0.0), mask=there)
    tl.store(STATS_OUT + 2 * rows + row, tl.where(live, m2, 0.0), mask=there)
    tl.store(STATS_OUT + 3 * rows + row, tl.where(live, l2, 0.0), mask=there)
    tl.store(STATS_OUT + 4 * rows + row, tl.where(live, c, 0.0), mask=there)
    tl.store(STATS_OUT + 5 * rows + row, tl.where(live, kl, 0.0), mask=there)


@triton.jit
def _read_stats(STATS_IN, row, rows, live):
    m1 = tl.load(STATS_IN + row, mask=live, other=0.0)
    l1 = tl.load(STATS_IN + rows + row, mask=live, other=0.0)
    m2 = tl.load(STATS_IN + 2 * rows + row, mask=live, other=0.0)
    l2 = tl.load(STATS_IN + 3 * rows + row, mask=live, other=0.0)
    c = tl.load(STATS_IN + 4 * rows + row, mask=live, other=0.0)
    kl = tl.load(STATS_IN + 5 * rows + row, mask=live, other=0.0)
    return m1, l1, m2, l2, c, kl


@triton.jit
def _cross_entropy(
    student, LABEL, LABELLED_OUT, STATS_OUT, b, pos, row, rows, there, live, K, m_s, ordinary,
    ignore, S_LAYOUT: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """``log sum exp s - s[label]``; 0 for an ignored label, nan for one that is no class."""
    label = tl.load(LABEL + row, mask=live, other=0)
    counts = live & (label != ignore)
    known = counts & (label >= 0) & (label < K)
    own = tl.load(
        _at(student, b, pos, label, S_LAYOUT, ALIGN, True), mask=known, other=float("nan")
    )
    log_sum = log_of(ordinary)
    value = (m_s - own.to(tl.float32)) + log_sum * LN2
    tl.store(LABELLED_OUT + row, tl.where(counts, value, 0.0), mask=there)
    tl.store(STATS_OUT + 7 * rows + row, tl.where(live, log_sum, 0.0), mask=there)


@triton.jit(do_not_specialize=NUMBERS)
def whole_rows(
    S, T, TAU_S, TAU_T, LABEL, KEEP, VALUES, LABELLED_OUT, STATS_OUT, P, K, rows,
    s_b, s_p, s_k, t_b, t_p, t_k, tau_s_row, tau_t_row, ignore, share, weight_p, weight_q,
    f0, f1, f2, f3, f4, f5, f6, g0, g1, g2, g3, g4, g5, g6,
    KIND: tl.constexpr, S_LAYOUT: tl.constexpr, T_LAYOUT: tl.constexpr, ALIGN: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, ONE_TILE: tl.constexpr,
):  # fmt: skip
    """Values and statistics of ROWS rows by one program."""
    weights = (share, weight_p, weight_q)
    f_of = (f0, f1, f2, f3, f4, f5, f6)
    phi_of = (g0, g1, g2, g3, g4, g5, g6)
    P, K = _sizes(P, K, S_LAYOUT, T_LAYOUT, ALIGN)
    rows = rows.to(tl.int64)
    b, pos, row, there = _rows_of(P, tl.program_id(0), ROWS)
    live = _wanted(KEEP, row, there)
    read = _read(there, live, S_LAYOUT, T_LAYOUT)
    r_s, r_t = _rates(TAU_S, TAU_T, tau_s_row, tau_t_row, row, live)
    r1, r2 = pair(r_s, r_t, KIND)
    SAME: tl.constexpr = TAU_T is None
    LABELLED: tl.constexpr = LABEL is not None
    student = (S, s_b, s_p, s_k)
    teacher = (T, t_b, t_p, t_k)
    if ONE_TILE:
        k = tl.arange(0, BLOCK)
        s = _tile(student, b, pos, k, read, K, S_LAYOUT, ALIGN)
        t = _tile(teacher, b, pos, k, read, K, T_LAYOUT, ALIGN)
        x1, x2 = pair(s, t, KIND)
        m1, z1, m2, z2, c, a = block(x1, x2, r1, r2, SAME)
        if LABELLED:
            ordinary = _ordinary(s, _student(m1, m2, KIND))
    else:
        m1, z1, m2, z2, c, a, ordinary = _sweep(
            student, teacher, b, pos, read, K, 0, K, r1, r2, KIND, SAME, LABELLED, S_LAYOUT,
            T_LAYOUT, ALIGN, ROWS, BLOCK,
        )  # fmt: skip
    l1, l2, c, kl, value = finished(z1, z2, c, a)
    _write_stats(STATS_OUT, row, rows, there, live, m1, l1, m2, l2, c, kl)
    mean = value  # that of the reverse divergence; the forward one has no use for it
    top = tl.zeros((ROWS,), tl.float32)
    if KIND != FORWARD and KIND != REVERSE:
        if ONE_TILE:
            value, plus, minus, phi = _looked_at(
                s, t, m1, l1, m2, l2, r1, r2, c, kl, weights, f_of, phi_of, KIND, SAME
            )
            value = tl.sum(value, 1)
            plus = tl.sum(plus, 1)
            minus = tl.sum(minus, 1)
            if KIND == MIXTURE:
                top = tl.sum(phi, 1)
        else:
            value, plus, minus, top = _second_sweep(
                student, teacher, b, pos, read, K, 0, K, m1, l1, m2, l2, r1, r2, c, kl, weights,
                f_of, phi_of, KIND, SAME, S_LAYOUT, T_LAYOUT, ALIGN, ROWS, BLOCK,
            )  # fmt: skip
        mean = mean_of(plus, minus, top, l1, l2, KIND)
    tl.store(STATS_OUT + 6 * rows + row, tl.where(live, mean, 0.0), mask=there)
    tl.store(STATS_OUT + 8 * rows + row, tl.where(live, top, 0.0), mask=there)
    tl.store(VALUES + row, tl.where(live, value, 0.0), mask=there)
    if LABELLED:
        _cross_entropy(
            student, LABEL, LABELLED_OUT, STATS_OUT, b, pos, row, rows, there, live, K,
            _student(m1, m2, KIND), ordinary, ignore, S_LAYOUT, ALIGN,
        )  # fmt: skip
    else:
        tl.store(STATS_OUT + 7 * rows + row, tl.zeros((ROWS,), tl.float32), mask=there)


@triton.jit(do_not_specialize=NUMBERS)
def split_rows(
    S, T, TAU_S, TAU_T, KEEP, PIECES, P, K, rows, piece,
    s_b, s_p, s_k, t_b, t_p, t_k, tau_s_row, tau_t_row,
    KIND: tl.constexpr, LABELLED: tl.constexpr, S_LAYOUT: tl.constexpr, T_LAYOUT: tl.constexpr,
    ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The pieces of ROWS rows, of ``piece`` blocks each, by the second number of the program."""
    P, K = _sizes(P, K, S_LAYOUT, T_LAYOUT, ALIGN)
    rows = rows.to(tl.int64)
    b, pos, row, there = _rows_of(P, tl.program_id(0), ROWS)
    live = _wanted(KEEP, row, there)
    read = _read(there, live, S_LAYOUT, T_LAYOUT)
    r_s, r_t = _rates(TAU_S, TAU_T, tau_s_row, tau_t_row, row, live)
    r1, r2 = pair(r_s, r_t, KIND)
    first = tl.program_id(1) * (piece * BLOCK)
    last = tl.minimum(first + piece * BLOCK, K)
    m1, z1, m2, z2, c, a, ordinary = _sweep(
        (S, s_b, s_p, s_k), (T, t_b, t_p, t_k), b, pos, read, K, first, last, r1, r2,
        KIND, TAU_T is None, LABELLED, S_LAYOUT, T_LAYOUT, ALIGN, ROWS, BLOCK,
    )  # fmt: skip
    step = tl.num_programs(1) * rows
    at = PIECES + tl.program_id(1) * rows + row
    tl.store(at, m1, mask=there)
    tl.store(at + step, z1, mask=there)
    tl.store(at + 2 * step, m2, mask=there)
    tl.store(at + 3 * step, z2, mask=there)
    tl.store(at + 4 * step, c, mask=there)
    tl.store(at + 5 * step, a, mask=there)
    tl.store(at + 6 * step, ordinary, mask=there)


@triton.jit(do_not_specialize=NUMBERS)
def join_rows(
    S, TAU_S, TAU_T, LABEL, KEEP, PIECES, VALUES, LABELLED_OUT, STATS_OUT, P, K, rows, pieces,
    s_b, s_p, s_k, tau_s_row, tau_t_row, ignore,
    KIND: tl.constexpr, S_LAYOUT: tl.constexpr, ALIGN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Merges the pieces of ROWS rows in order; values and statistics are those of ``whole_rows``.

    The only program whose P and K come undivided.
    """
    rows = rows.to(tl.int64)
    b, pos, row, there = _rows_of(P, tl.program_id(0), ROWS)
    live = _wanted(KEEP, row, there)
    r_s, r_t = _rates(TAU_S, TAU_T, tau_s_row, tau_t_row, row, live)
    r1, r2 = pair(r_s, r_t, KIND)
    m1, z1, m2, z2, c, a = _nothing(ROWS)
    ordinary = tl.zeros((ROWS,), tl.float32)
    step = pieces * rows
    for i in range(pieces):
        at = PIECES + i * rows + row
        n1 = tl.load(at, mask=there, other=LOWEST)
        y1 = tl.load(at + step, mask=there, other=0.0)
        n2 = tl.load(at + 2 * step, mask=there, other=LOWEST)
        y2 = tl.load(at + 3 * step, mask=there, other=0.0)
        mid = tl.load(at + 4 * step, mask=there, other=0.0)
        area = tl.load(at + 5 * step, mask=there, other=0.0)
        more = tl.load(at + 6 * step, mask=there, other=0.0)
        old = _student(m1, m2, KIND)
        ordinary = _sum_of(ordinary, old, more, _student(n1, n2, KIND))
        m1, z1, m2, z2, c, a = merge(
            m1, z1, m2, z2, c, a, n1, y1, n2, y2, mid, area, r1, r2, TAU_T is None
        )
    l1, l2, c, kl, value = finished(z1, z2, c, a)
    _write_stats(STATS_OUT, row, rows, there, live, m1, l1, m2, l2, c, kl)
    tl.store(STATS_OUT + 6 * rows + row, tl.where(live, value, 0.0), mask=there)
    tl.store(STATS_OUT + 8 * rows + row, tl.zeros((ROWS,), tl.float32), mask=there)
    tl.store(VALUES + row, tl.where(live, value, 0.0), mask=there)
    if LABEL is not None:
        _cross_entropy(
            (S, s_b, s_p, s_k), LABEL, LABELLED_OUT, STATS_OUT, b, pos, row, rows, there, live, K,
            _student(m1, m2, KIND), ordinary, ignore, S_LAYOUT, ALIGN,
        )  # fmt: skip
    else:
        tl.store(STATS_OUT + 7 * rows + row, tl.zeros((ROWS,), tl.float32), mask=there)


@triton.jit(do_not_specialize=NUMBERS)
def split_terms(
    S, T, TAU_S, TAU_T, KEEP, STATS_IN, PIECES, P, K, rows, piece,
    s_b, s_p, s_k, t_b, t_p, t_k, tau_s_row, tau_t_row, share, weight_p, weight_q,
    f0, f1, f2, f3, f4, f5, f6, g0, g1, g2, g3, g4, g5, g6,
    KIND: tl.constexpr, S_LAYOUT: tl.constexpr, T_LAYOUT: tl.constexpr, ALIGN: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The second sweep over the pieces of ``split_rows``."""
    weights = (share, weight_p, weight_q)
    f_of = (f0, f1, f2, f3, f4, f5, f6)
    phi_of = (g0, g1, g2, g3, g4, g5, g6)
    P, K = _sizes(P, K, S_LAYOUT, T_LAYOUT, ALIGN)
    rows = rows.to(tl.int64)
    b, pos, row, there = _rows_of(P, tl.program_id(0), ROWS)
    live = _wanted(KEEP, row, there)
    read = _read(there, live, S_LAYOUT, T_LAYOUT)
    r_s, r_t = _rates(TAU_S, TAU_T, tau_s_row, tau_t_row, row, live)
    r1, r2 = pair(r_s, r_t, KIND)
    m1, l1, m2, l2, c, kl = _read_stats(STATS_IN, row, rows, live)
    first = tl.program_id(1) * (piece * BLOCK)
    last = tl.minimum(first + piece * BLOCK, K)
    value, plus, minus, top = _second_sweep(
        (S, s_b, s_p, s_k), (T, t_b, t_p, t_k), b, pos, read, K, first, last, m1, l1,
        m2, l2, r1, r2, c, kl, weights, f_of, phi_of, KIND, TAU_T is None, S_LAYOUT, T_LAYOUT,
        ALIGN, ROWS, BLOCK,
    )  # fmt: skip
    at = PIECES + tl.program_id(1) * rows + row
    tl.store(at, tl.where(live, value, 0.0), mask=there)
    step = tl.num_programs(1) * rows
    tl.store(at + step, plus, mask=there)
    tl.store(at + 2 * step, minus, mask=there)
    tl.store(at + 3 * step, top, mask=there)


@triton.jit(do_not_specialize=NUMBERS)
def rise_rows(
    S, T, TAU_S, TAU_T, LABEL, KEEP, STATS_IN, GRAD, GRAD_LABELLED, OUT, P, K, rows,
    s_b, s_p, s_k, t_b, t_p, t_k, o_b, o_p, o_k, tau_s_row, tau_t_row, ignore,
    share, weight_p, weight_q,
    f0, f1, f2, f3, f4, f5, f6, g0, g1, g2, g3, g4, g5, g6,
    KIND: tl.constexpr, S_LAYOUT: tl.constexpr, T_LAYOUT: tl.constexpr, ALIGN: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of one tile; 0 in rows that no gradient reaches, whatever is in them."""
    weights = (share, weight_p, weight_q)
    f_of = (f0, f1, f2, f3, f4, f5, f6)
    phi_of = (g0, g1, g2, g3, g4, g5, g6)
    P, K = _sizes(P, K, S_LAYOUT, T_LAYOUT, ALIGN)
    rows = rows.to(tl.int64)
    columns = tl.cdiv(K, BLOCK)
    b, pos, row, there = _rows_of(P, tl.program_id(0) // columns, ROWS)
    live = _wanted(KEEP, row, there)
    grad = tl.load(GRAD + row, mask=live, other=0.0)
    moved = grad != 0
    if LABEL is not None:
        grad_one = tl.load(GRAD_LABELLED + row, mask=live, other=0.0)
        label = tl.load(LABEL + row, mask=live, other=0)
        grad_one = tl.where(label == ignore, 0.0, grad_one)
        moved = moved | (grad_one != 0)
    r_s, r_t = _rates(TAU_S, TAU_T, tau_s_row, tau_t_row, row, moved)
    r1, r2 = pair(r_s, r_t, KIND)
    m1, l1, m2, l2, c, kl = _read_stats(STATS_IN, row, rows, moved)
    mean = tl.load(STATS_IN + 6 * rows + row, mask=moved, other=0.0)
    top = tl.zeros((ROWS,), tl.float32)
    if KIND == MIXTURE:
        top = tl.load(STATS_IN + 8 * rows + row, mask=moved, other=0.0)
    read_s = _read(there, moved, S_LAYOUT, T_LAYOUT)
    read_t = _read(there, moved & (grad != 0), S_LAYOUT, T_LAYOUT)
    k = tl.program_id(0) % columns * BLOCK + tl.arange(0, BLOCK)
    s = _tile((S, s_b, s_p, s_k), b, pos, k, read_s, K, S_LAYOUT, ALIGN)
    t = _tile((T, t_b, t_p, t_k), b, pos, k, read_t, K, T_LAYOUT, ALIGN)
    x1, x2 = pair(s, t, KIND)
    if KIND == REVERSE:  # phi less its mean, where the mean is mostly kl: nothing is added twice
        kl -= mean
        mean = tl.zeros((ROWS,), tl.float32)
    d = log_ratio(x1, x2, m1, m2, r1, r2, c, kl, KIND, TAU_T is None)
    m_s = _student(m1, m2, KIND)
    q = probability(s, m_s, r_s, _student(l1, l2, KIND))
    p = probability(t, _student(m2, m1, KIND), r_t, _student(l2, l1, KIND))
    up = rise(p, q, d, mean, top, weights, f_of, phi_of, KIND)
    out = tl.where((grad != 0)[:, None], up * (grad * r_s)[:, None], 0.0)
    if LABEL is not None:
        log_sum = tl.load(STATS_IN + 7 * rows + row, mask=moved, other=0.0)
        ones = tl.full((ROWS,), 1.0, tl.float32)
        excess = probability(s, m_s, ones, log_sum) - tl.where(k[None, :] == label[:, None], 1, 0)
        out += tl.where((grad_one != 0)[:, None], excess * grad_one[:, None], 0.0)
    at = _at((OUT, o_b, o_p, o_k), b, pos, k, S_LAYOUT, ALIGN, False)
    tl.store(at, out.to(OUT.dtype.element_ty), mask=there[:, None] & (k < K)[None, :])
