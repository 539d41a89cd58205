"""Which programs of ``_softmax_rows`` run, on which tiles, for tensors of a shape and of strides.

Tiles are chosen by shape alone; ``variants`` names all that can be chosen, with what makes the
compiler see them differently, and each of those is built ahead of time in the tests.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from kdgraph.kernels._divergence import FORWARD, MIXTURE, REVERSE, TOTAL_VARIATION, series
from kdgraph.kernels._row_ops import STATS
from kdgraph.kernels._softmax_rows import (
    CLASSES,
    PARTIAL,
    POSITIONS,
    STRIDED,
    join_rows,
    rise_rows,
    split_rows,
    split_terms,
    whole_rows,
)
from kdgraph.kernels.base import on_device

Strides: TypeAlias = tuple[int, int, int]
Tile: TypeAlias = tuple[int, int, int]  # rows, block, warps

SERIES = [*(f"f{i}" for i in range(7)), *(f"g{i}" for i in range(7))]

WIDTHS = {
    # classes up to which one tile holds a row
    32: (32, 32, 4),
    128: (8, 128, 4),
    512: (2, 512, 4),
    1024: (1, 1024, 4),
    2048: (1, 2048, 4),
    4096: (1, 4096, 8),
}
# Where neighbouring rows are neighbours in memory.
ACROSS = {32: (128, 32, 4), 128: (64, 128, 8)}
# Two sweeps take more registers than one: half the elements for each thread.
ACROSS_TWICE = {32: (128, 32, 8), 128: (32, 128, 8)}
SWEEP, SWEEP_TWICE = (1, 4096, 4), (1, 2048, 4)
ACROSS_SWEEP, ACROSS_SWEEP_TWICE = (64, 64, 4), (64, 32, 4)
RISE = {32: (32, 32, 4), 128: (8, 128, 4), 512: (2, 512, 4), 1024: (1, 1024, 4)}
RISE_WIDE = (1, 2048, 4)
RISE_ACROSS = {32: (128, 32, 4)}
RISE_ACROSS_WIDE = (64, 64, 4)
JOIN = (32, 1)  # rows, warps
REGISTERS = 224  # of a thread that looks at each class twice
BUSY = 528  # programs that keep a large GPU busy: four on each of 132 multiprocessors


class Plan(NamedTuple):
    """Tile and warps of a program; classes of a piece, 0 for rows that are not split.

    ``registers`` is the most a thread may have; left alone, ptxas spills for the sake of more
    programs at once.
    """

    rows: int
    block: int
    warps: int
    one_tile: bool
    piece: int = 0
    registers: int | None = None

    def options(self) -> dict[str, Any]:
        return {"num_warps": self.warps, "maxnreg": self.registers}


class Problem(NamedTuple):
    """What one call computes, on rows [B, P] of K classes.

    ``tau`` and ``tau_teacher`` have one element or one per row; without the second both sides have
    the same temperature. ``share`` and the weights are those of ``_divergence``'s MIXTURE.
    """

    kind: int
    student: Tensor
    teacher: Tensor
    tau: Tensor
    tau_teacher: Tensor | None = None
    label: Tensor | None = None
    keep: Tensor | None = None
    ignore: int = -100
    share: float = 0.0
    weight_p: float = 0.0
    weight_q: float = 0.0


def problem(
    student: Tensor,
    teacher: Tensor,
    tau: Tensor,
    tau_teacher: Tensor | None,
    label: Tensor | None,
    keep: Tensor | None,
    kind: str,
    share: float,
    ignore_index: int,
) -> Problem:
    """The arguments of ``kdgraph::softmax_rows`` as its programs take them."""
    mixtures = {
        # of the student's share of the mixture, and the weights of KL(p || m) and KL(q || m)
        "jensen_shannon": (1 - share, share, 1 - share),
        "skew_kl": (1 - share, 1.0, 0.0),
        "skew_kl_reverse": (share, 0.0, 1.0),
    }
    plain = {"forward_kl": FORWARD, "reverse_kl": REVERSE, "total_variation": TOTAL_VARIATION}
    return Problem(
        plain.get(kind, MIXTURE).value,
        student,
        teacher,
        tau,
        tau_teacher,
        None if label is None else label.contiguous(),
        None if keep is None else keep.contiguous().view(torch.uint8),
        ignore_index,
        *mixtures.get(kind, (0.0, 0.0, 0.0)),
    )


def forward(problem: Problem, plan: Plan | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Values [B, P], cross-entropies [B, P] (empty without labels), statistics [STATS, B, P]."""
    shape = problem.student.shape[:2]
    values = torch.empty(shape, dtype=torch.float32, device=problem.student.device)
    labelled = values.new_empty(shape if problem.label is not None else (0, 0))
    stats = values.new_empty((STATS, *shape))
    if not values.numel():
        return values, labelled, stats
    case = _Case(problem)
    plan = plan or forward_plan(case)
    out = {"VALUES": values, "LABELLED_OUT": labelled, "STATS_OUT": stats}
    with on_device(values):
        if plan.piece:
            _forward_split(case, plan, out)
        else:
            constants = case.constants(plan) | {"ONE_TILE": plan.one_tile}
            grid = (case.tiles(plan.rows),)
            args = case.inputs() | case.labels() | case.weights() | out
            whole_rows[grid](**args, **constants, **plan.options())
    return values, labelled, stats


def _forward_split(case: _Case, plan: Plan, out: dict[str, Tensor]) -> None:
    problem, rows = case.problem, case.rows
    count = -(-case.K // plan.piece)
    grid = (case.tiles(plan.rows), count)
    pieces = out["VALUES"].new_empty((PARTIAL, count, rows))
    args = case.inputs() | {"PIECES": pieces, "piece": plan.piece // plan.block}
    constants = case.constants(plan)
    kind = REVERSE.value if problem.kind == REVERSE.value else FORWARD.value  # which side is first
    only = {"KIND": kind, "LABELLED": problem.label is not None}
    split_rows[grid](**args, **(constants | only), **plan.options())
    join_rows[(case.tiles(JOIN[0]),)](
        **case.joined(), **case.labels(), **out, PIECES=pieces, pieces=count,
        KIND=kind, S_LAYOUT=case.s_layout, ALIGN=case.align, ROWS=JOIN[0],
        num_warps=JOIN[1],
    )  # fmt: skip
    if problem.kind in (FORWARD.value, REVERSE.value):
        return
    sums = pieces.new_empty((4, count, rows))
    args |= case.weights() | {"PIECES": sums, "STATS_IN": out["STATS_OUT"]}
    split_terms[grid](**args, **constants, **plan.options())
    value, plus, minus, top = sums.sum(1)
    if problem.kind == TOTAL_VARIATION.value:  # as mean_of
        smaller = torch.where(plus < minus, plus, -minus)
        plus = smaller.where(plus != minus, 0.5)
    else:
        plus = plus - minus * top
    stats = out["STATS_OUT"].view(STATS, rows)
    out["VALUES"].copy_(value.view_as(out["VALUES"]))
    stats[6] = plus + 0 * (stats[1] + stats[3])  # nan where a sum of the row is
    stats[8] = top


def backward(
    problem: Problem,
    stats: Tensor,
    grad: Tensor,
    grad_labelled: Tensor,
    plan: Plan | None = None,
) -> Tensor:
    """The gradient of the student's logits, in their shape, type and order in memory.

    Args:
        problem: as given to ``forward``.
        stats: what it returned.
        grad: of the values, [B, P] float32.
        grad_labelled: of the cross-entropies; not read without labels.
        plan: tile and warps, for tests.
    """
    out = torch.empty_like(problem.student)
    if not out.numel():
        return out
    case = _Case(problem, out)
    plan = plan or rise_plan(case)
    args = case.inputs() | case.labels() | case.weights() | case.out_strides()
    args |= {"STATS_IN": stats, "GRAD": grad, "GRAD_LABELLED": grad_labelled, "OUT": out}
    grid = (case.tiles(plan.rows) * -(-case.K // plan.block),)
    with on_device(out):
        rise_rows[grid](**args, **case.constants(plan), **plan.options())
    return out


class _Case:
    """A problem as its programs are given it.

    Samples and positions are one dimension where strides allow it. Strides, and the number that
    loads run along, are divided by ``align``, so that the compiler sees what divides them.
    """

    def __init__(self, problem: Problem, out: Tensor | None = None) -> None:
        self.problem = problem
        sides = [problem.student, problem.teacher, *([] if out is None else [out])]
        B, P, self.K = problem.student.shape
        self.rows = B * P
        strides: list[Strides] = [(x.stride(0), x.stride(1), x.stride(2)) for x in sides]
        if P == 1:
            B, P, strides = 1, B, [(0, b, k) for b, _, k in strides]
        elif all(B == 1 or b == P * p for b, p, _ in strides):
            B, P, strides = 1, B * P, [(0, p, k) for _, p, k in strides]
        self.B, self.P = B, P
        layouts = [self._layout(*s[1:]) for s in strides]
        self.s_layout, self.t_layout = layouts[:2]
        if out is not None and layouts[2] != self.s_layout:
            self.s_layout = int(STRIDED.value)
        self.align = self._align(strides)
        self.strides = [(b // self.align, p // self.align, k // self.align) for b, p, k in strides]

    def _layout(self, p: int, k: int) -> int:
        at = CLASSES if k == 1 or self.K == 1 else POSITIONS if p == 1 else STRIDED
        return int(at.value)

    def _align(self, strides: list[Strides]) -> int:
        layouts = (self.s_layout, self.t_layout)
        if STRIDED.value in layouts:
            return 1
        own = [*layouts, self.s_layout][: len(strides)]
        numbers = [n for s, at in zip(strides, own, strict=True) for n in (s[0], s[1 + at])]
        numbers += [self.K] if CLASSES.value in layouts else []
        numbers += [self.P] if POSITIONS.value in layouts else []
        sizes = {x.element_size() for x in (self.problem.student, self.problem.teacher)}
        # Along rows a thread takes 32 bits: with more it had more rows, whose sums cost the most,
        # and a warp reads 128 bytes in a line all the same.
        wide = (4 if POSITIONS.value in layouts else 16) // min(sizes)
        return wide if all(n % wide == 0 for n in numbers) else 1

    @property
    def across(self) -> bool:
        """Whether tiles are better long in rows than in classes."""
        return POSITIONS.value in (self.s_layout, self.t_layout)

    def tiles(self, rows: int) -> int:
        return self.B * -(-self.P // rows)

    def constants(self, plan: Plan) -> dict[str, Any]:
        return {
            "KIND": self.problem.kind,
            "S_LAYOUT": self.s_layout,
            "T_LAYOUT": self.t_layout,
            "ALIGN": self.align,
            "ROWS": plan.rows,
            "BLOCK": plan.block,
        }

    def inputs(self) -> dict[str, Any]:
        layouts = (self.s_layout, self.t_layout)
        p, t = self.problem, self.strides[1]
        sizes = {
            "P": self.P // (self.align if POSITIONS.value in layouts else 1),
            "K": self.K // (self.align if CLASSES.value in layouts else 1),
        }
        sides = {"S": p.student, "T": p.teacher, "t_b": t[0], "t_p": t[1], "t_k": t[2]}
        return self._common() | sides | sizes

    def joined(self) -> dict[str, Any]:
        """What ``join_rows`` reads of the inputs."""
        return self._common() | {"S": self.problem.student, "P": self.P, "K": self.K}

    def _common(self) -> dict[str, Any]:
        p, s = self.problem, self.strides[0]
        return {
            "TAU_S": p.tau,
            "TAU_T": p.tau_teacher,
            "KEEP": p.keep,
            "rows": self.rows,
            "s_b": s[0],
            "s_p": s[1],
            "s_k": s[2],
            "tau_s_row": int(p.tau.numel() > 1),
            "tau_t_row": int(p.tau_teacher is not None and p.tau_teacher.numel() > 1),
        }

    def labels(self) -> dict[str, Any]:
        return {"LABEL": self.problem.label, "ignore": self.problem.ignore}

    def weights(self) -> dict[str, Any]:
        p = self.problem
        own = {"share": p.share, "weight_p": p.weight_p, "weight_q": p.weight_q}
        if p.kind != MIXTURE.value:
            return own | dict.fromkeys(SERIES, 0.0)
        return own | dict(zip(SERIES, series(*own.values()), strict=True))

    def out_strides(self) -> dict[str, int]:
        return dict(zip(("o_b", "o_p", "o_k"), self.strides[2], strict=True))


def forward_plan(case: _Case) -> Plan:
    """Tiles, sweeps or pieces, by the shape of the rows."""
    once = case.problem.kind in (FORWARD.value, REVERSE.value)
    tiles, sweep = forward_tiles(case.across, once)
    registers = None if once else REGISTERS
    for width, tile in tiles.items():
        if width >= case.K:
            return Plan(*tile, one_tile=True, registers=registers)
    plan = Plan(*sweep, one_tile=False, registers=registers)
    blocks, programs = -(-case.K // plan.block), case.tiles(plan.rows)
    count = min(BUSY // programs, blocks // 2)
    if count < 2:
        return plan
    return plan._replace(piece=-(-blocks // count) * plan.block)


def forward_tiles(across: bool, once: bool) -> tuple[dict[int, Tile], Tile]:
    """Tiles that hold a row, by its width, and that of one sweep or of each of two."""
    if across:
        return (ACROSS, ACROSS_SWEEP) if once else (ACROSS_TWICE, ACROSS_SWEEP_TWICE)
    return WIDTHS, SWEEP if once else SWEEP_TWICE


def rise_plan(case: _Case) -> Plan:
    """The tile of the gradient, which needs no sum over a row."""
    tiles, wide = (RISE_ACROSS, RISE_ACROSS_WIDE) if case.across else (RISE, RISE_WIDE)
    tile = next((tile for width, tile in tiles.items() if width >= case.K), wide)
    return Plan(*tile, one_tile=False)


class Variant(NamedTuple):
    """A program as it can be chosen: for which kind and tile, along which dimension it loads."""

    program: Any
    kind: int
    layout: int
    plan: Plan


def variants() -> list[Variant]:
    """All that can be chosen; labels, temperatures of both sides and skipped rows come on top."""
    found = []
    classes, positions = int(CLASSES.value), int(POSITIONS.value)
    for kind in (FORWARD.value, REVERSE.value, MIXTURE.value, TOTAL_VARIATION.value):
        once = kind in (FORWARD.value, REVERSE.value)
        most = None if once else REGISTERS
        for layout in (classes, positions):
            tiles, sweep = forward_tiles(layout == positions, once)
            plans = [Plan(*tile, one_tile=True, registers=most) for tile in tiles.values()]
            found += [Variant(whole_rows, kind, layout, plan) for plan in plans]
            plan = Plan(*sweep, one_tile=False, registers=most)
            split = split_rows if once else split_terms
            found += [Variant(program, kind, layout, plan) for program in (whole_rows, split)]
        rises = ((classes, RISE, RISE_WIDE), (positions, RISE_ACROSS, RISE_ACROSS_WIDE))
        for layout, tiles, wide in rises:
            plans = [Plan(*tile, one_tile=False) for tile in (*tiles.values(), wide)]
            found += [Variant(rise_rows, kind, layout, plan) for plan in plans]
        if once:
            plan = Plan(JOIN[0], 1, JOIN[1], one_tile=False)
            found.append(Variant(join_rows, kind, classes, plan))
    for layout in (classes, positions):  # the first sweep of the others, in pieces
        tile = forward_tiles(layout == positions, False)[1]
        plan = Plan(*tile, one_tile=False, registers=REGISTERS)
        found.append(Variant(split_rows, FORWARD.value, layout, plan))
    return found
