"""Makes a step right on a part of a batch: ``mean of the part -> its share of the whole``."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, cast

from torch import fx

from kdgraph.graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.graph.ops import total
from kdgraph.graph.ranks import gather_rows, own_rows, rows_of_ranks
from kdgraph.losses._module import LossModule
from kdgraph.losses.base import Loss, RowLoss, without_channels
from kdgraph.passes._across import AcrossRanks, Counted, Kind
from kdgraph.passes._fused_head import FusedHead
from kdgraph.passes._letters import Letters
from kdgraph.passes.base import Context, register_pass, tagged
from kdgraph.spec.shapes import Shape, ShapeMismatch

_SIDES = ("student", "teacher")


@register_pass("across_ranks", after="fuse_heads", default=False)
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``total([soft, relation])`` -> ``total(across_ranks([soft, relation of gathered rows]))``.

    Where several processes share a batch, an edge of ``scope: global`` has the value, and gives
    the gradient, that it would have on the whole batch. What is a mean or a sum over rows needs
    the sums and the numbers of rows of all ranks, which are one message for all edges. Losses that
    read rows together, and signals that do, are given the rows of all ranks. An edge of ``scope:
    rank`` keeps to its own rows. The same node weighs the batches of a window, over which a
    trainer accumulates gradients.
    """
    path = "rewritten.across_ranks"
    if graph.graph.find_nodes(op="call_module", target=path):
        return graph
    gather = _Gather(
        graph, any(isinstance(n, str) for e in context.spec.batch.values() for n in e.shape[1:])
    )
    for node in list(graph):
        if role_of(node) == "signal" and node.op == "call_module":
            _signal(node, gather, context)
    losses = _losses(graph)
    for node, loss in losses.items():
        if not isinstance(loss, RowLoss) and loss.scope == "global":
            gather.into(node)
            context.did.append(f"{_edge(node)}: reads the rows of all ranks")
    _across(graph, losses, gather.letters, context, path)
    return graph


class _Gather:
    """The rows of all ranks, of each tensor once.

    Args:
        graph: to which nodes are added.
        free: ranks may be given other sizes than the number of rows.
    """

    def __init__(self, graph: DistillGraph, free: bool) -> None:
        self.graph, self.free = graph, free
        self.letters = Letters(graph)
        self.rows: dict[fx.Node, fx.Node] = {}
        self.found: dict[fx.Node, fx.Node] = {}

    def into(self, reader: fx.Node) -> fx.Node | None:
        """Lets a node read the rows of all ranks; gives how many each has, None without rows."""
        nodes = [n for n in reader.all_input_nodes if shape_of(n) and self.letters.of(n)]
        if not nodes:
            return None
        first = nodes[0]
        for node in nodes:
            if _rows(node) == _rows(first) and self.letters.of(node) == self.letters.of(first):
                reader.replace_input_with(node, self.every(node))
        return self.numbers(first)

    def every(self, value: fx.Node) -> fx.Node:
        if value not in self.found:
            rows = self.numbers(value)
            free = self.free and len(shape_of(value) or ()) > 1
            at = rows if rows.args[0] is value or value.op == "placeholder" else value
            with self.graph.graph.inserting_after(at):
                node = self.graph.graph.call_function(gather_rows, (value, rows, not free))
            self.found[value] = _as(value, node, shape_of(value))
        return self.found[value]

    def numbers(self, value: fx.Node) -> fx.Node:
        """How many rows each rank has of a tensor."""
        entries = self.letters.entries(value)
        of = next((n for n in entries if _rows(n) == _rows(value)), value)
        if of not in self.rows:
            last = self.letters.batch[-1]
            with self.graph.graph.inserting_after(last if of.op == "placeholder" else of):
                node = self.graph.graph.call_function(rows_of_ranks, (of,))
            self.rows[of] = _as(of, node, None)
        return self.rows[of]


def _rows(node: fx.Node) -> int | None:
    """The rows of a tensor at the example batch."""
    shape = shape_of(node)
    return shape[0] if shape else None


def _as(like: fx.Node, node: fx.Node, shape: Shape | None) -> fx.Node:
    """Gives a node the meta data of another."""
    return tagged(node, role_of(like), owner_of(like), like.meta["kd_span"], shape)


def _signal(node: fx.Node, gather: _Gather, context: Context) -> None:
    """Lets a signal that reads rows together read those of all ranks, and keep its own."""
    name = owner_of(node).removeprefix("signals.")
    signal = context.spec.signals.get(name)
    if signal is None or signal.by_row():
        return
    rows = gather.into(node)
    context.did.append(f"signal {name}: reads the rows of all ranks")
    if rows is not None and shape_of(node):
        with gather.graph.graph.inserting_after(node):
            own = gather.graph.graph.call_function(own_rows, (node, rows))
        _as(node, own, shape_of(node))
        node.replace_all_uses_with(own, delete_user_cb=lambda user: user is not own)


def _losses(graph: DistillGraph) -> dict[fx.Node, Loss]:
    """The losses of the graph by their nodes, in its order."""
    found = {}
    for node in graph:
        if node.op == "call_module" and role_of(node) == "loss":
            module = graph.root.get_submodule(str(node.target))
            module = module.plain if isinstance(module, FusedHead) else module
            assert isinstance(module, LossModule)
            found[node] = module.loss
    return found


def _edge(node: fx.Node) -> str:
    return owner_of(node).removeprefix("losses.")


def _across(
    graph: DistillGraph,
    losses: Mapping[fx.Node, Loss],
    letters: Letters,
    context: Context,
    path: str,
) -> None:
    """Puts the one node of all edges before the total."""
    edges, inputs, values = [], [], []
    for node, loss in losses.items():
        counted, read = _counted(letters, node, loss)
        edges.append(counted)
        inputs.append(read)
        values.append(_values(node))
    (end,) = graph.graph.find_nodes(op="call_function", target=total)
    made = context.module(path, lambda: AcrossRanks(edges))
    graph.root.get_submodule("rewritten").add_module("across_ranks", made)
    with graph.graph.inserting_before(end):
        node = graph.graph.call_module(path, (values, inputs))
        tagged(node, "total", "total", end.meta["kd_span"])
        for at, value in enumerate(v for edge in values for v in edge):
            item = graph.graph.call_function(operator.getitem, (node, at))
            _as(value, item, ())
            value.replace_all_uses_with(item, delete_user_cb=lambda user: user is not node)
    kinds = {kind: [e.edge for e in edges if e.kind == kind] for kind in ("rows", "rank")}
    if kinds["rows"]:
        context.did.append(f"{', '.join(kinds['rows'])}: over the rows of all ranks, one message")
    if kinds["rank"]:
        context.declined.append(f"{', '.join(kinds['rank'])}: scope: rank")


def _values(node: fx.Node) -> list[fx.Node]:
    """The value of an edge; with a weight of rows the plain and the weighted one."""
    if "row_weight" not in node.kwargs:
        return [node]
    return sorted(node.users, key=lambda item: int(str(item.args[1])))


def _counted(letters: Letters, node: fx.Node, loss: Loss) -> tuple[Counted, dict[str, Any]]:
    """How the rows of an edge are counted, and what has to be read for it."""
    rows = _row_shape(node, loss)
    first = _first(node, loss)
    entries = letters.entries(first)
    of_batch = letters.of(first) is not None and _of_batch(entries, rows)
    kind: Kind = "rows" if isinstance(loss, RowLoss) and of_batch else "whole"
    fields = _asked(loss, node.kwargs)
    like, dims = _like(entries, rows)
    ranks = {f: len(shape_of(cast(fx.Node, node.kwargs[f])) or ()) for f in fields if f in _SIDES}
    read = {f: node.kwargs[f] for f in fields if f not in _SIDES}
    return Counted(_edge(node), loss, "rank" if loss.scope == "rank" else kind, dims, ranks), {
        "like": like,
        **read,
    }


def _asked(loss: Loss, given: Mapping[str, Any]) -> list[str]:
    """The inputs by which a loss counts its rows."""
    if not isinstance(loss, RowLoss):
        return []
    asked = {"mask"}
    for rule in ("counted", "share"):
        own = getattr(type(loss), rule)
        if own is not getattr(RowLoss, rule):
            parameters = inspect.signature(own).parameters
            named = {n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
            asked |= named or set(given)
    return [field for field in given if field in asked and field != "row_weight"]


def _first(node: fx.Node, loss: Loss) -> fx.Node:
    """The tensor whose rows a loss has: the student's as a rule."""
    given = [node.kwargs.get(field) for field in ("student", *loss.ref_fields())]
    return next(v for v in given if isinstance(v, fx.Node) and shape_of(v))


def _row_shape(node: fx.Node, loss: Loss) -> Shape:
    """The shape of a loss's rows at the example batch, [B] or [B, ...]."""
    given = {f: node.kwargs.get(f) for f in loss.ref_fields()}
    shapes = {f: shape_of(v) for f, v in given.items() if isinstance(v, fx.Node)}
    student = shape_of(_first(node, loss)) or ()
    if not isinstance(loss, RowLoss) or loss.reduction == "batchmean":
        return student[:1]
    if getattr(loss, "fused_head", False):
        return student[:-1]  # hidden states, in which each token is a row
    rows = without_channels(student)
    for dims in range(len(rows), 1, -1):
        try:
            loss.shapes(**{**shapes, "mask": rows[:dims]})  # a mask may have the shape of the rows
        except ShapeMismatch:
            continue
        return rows[:dims]
    return rows[:1]


def _of_batch(entries: Sequence[fx.Node], rows: Shape) -> bool:
    """Whether there are as many rows as samples, or a multiple; else a model's weights are rows."""
    samples = {_rows(entry) for entry in entries}
    return any(rows[0] % size == 0 for size in samples if size)


def _like(entries: Sequence[fx.Node], rows: Shape) -> tuple[fx.Node, int]:
    """The batch entry that has most of the dimensions of the rows, and how many of them."""

    def common(node: fx.Node) -> int:
        same = (a == b for a, b in zip(shape_of(node) or (), rows, strict=False))
        return sum(takewhile(bool, same))

    best = max(entries, key=common)
    return best, max(common(best), 1)
