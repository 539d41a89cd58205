"""Runs frozen models beside the student on CUDA: ``one stream -> two, joined for the losses``."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx

from kdgraph.graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.graph.ops import tap
from kdgraph.graph.streams import fork, join, leave
from kdgraph.passes.base import Context, register_pass, tagged


@register_pass("overlap", after="share_parts", default=False)
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``teacher(x), student(x), loss`` -> ``fork, teacher(x), leave, student(x), join, loss``.

    The nodes of all frozen models come first, so that their kernels are queued before those of
    the student, and the losses wait for both. On another device than CUDA, and under
    ``torch.compile``, which orders the work itself, only the order of the nodes differs.
    """
    if any(n.target is fork for n in graph):
        return graph
    writers = [n for n in graph if n.meta.get("kd_mutates")]
    if writers:
        context.declined.append(f"%{writers[0].name} changes a tensor in place: the order holds")
        return graph
    beside = _beside(graph)
    crossing = [n for n in beside if any(u not in beside for u in n.users)]
    if not crossing or not any(s.op == "placeholder" for n in beside for s in n.all_input_nodes):
        context.declined.append("no frozen model runs on the batch")
    elif random := [m for m in map(owner_of, beside) if context.spec.models[m].dropout]:
        context.declined.append(f"{random[0]} draws random numbers: the order holds")
    elif any(not isinstance(n.meta.get("val"), Tensor) for n in crossing):
        context.declined.append("a frozen model hands over something other than tensors")
    else:
        _Overlap(graph, beside, crossing).run()
        models = ", ".join(dict.fromkeys(owner_of(n) for n in beside))
        values = "1 value" if len(crossing) == 1 else f"{len(crossing)} values"
        context.did.append(f"{models}: on a stream beside the student's, {values} joined")
    return graph


def _beside(graph: DistillGraph) -> dict[fx.Node, None]:
    """The nodes of frozen models that read batch entries and each other, in order."""
    found: dict[fx.Node, None] = {}
    for node in graph:
        if node.op in ("placeholder", "output") or node.target is tap:
            continue
        known = all(s.op == "placeholder" or s in found for s in node.all_input_nodes)
        if role_of(node) == "teacher" and known:
            found[node] = None
    return found


class _Overlap:
    """Reorders the nodes and puts the three operations between them."""

    def __init__(
        self, graph: DistillGraph, beside: dict[fx.Node, None], crossing: list[fx.Node]
    ) -> None:
        self.graph, self.beside, self.crossing = graph, beside, crossing
        self.first = next(iter(beside))

    def run(self) -> None:
        placeholders = [n for n in self.graph if n.op == "placeholder"]
        place = placeholders[-1]
        for node in self.beside:
            place.append(node)
            place = node
        given = [p for p in placeholders if any(n in self.beside for n in p.users)]
        with self.graph.graph.inserting_before(self.first):
            self._through(fork, given, given, lambda user: user in self.beside)
        with self.graph.graph.inserting_after(place):
            left = self._call(leave, self.crossing)
        taps, reader = self._taps()
        with self.graph.graph.inserting_before(reader):
            last = self._through(
                join, left, self.crossing, lambda user: user not in self.beside and user is not left
            )
        for marker in taps:
            last.append(marker)
            last = marker

    def _taps(self) -> tuple[list[fx.Node], fx.Node]:
        """Markers of what crosses, and the first node that computes with any of it."""
        read = set(self.crossing)
        taps: list[fx.Node] = []
        for node in self.graph:
            if node in self.beside or node.target is leave or not read & {*node.all_input_nodes}:
                continue
            if node.target is not tap:
                return taps, node
            taps.append(node)
            read.add(node)
        raise AssertionError("what crosses is read")

    def _through(
        self,
        operation: Callable[..., Any],
        given: fx.Node | list[fx.Node],
        values: Sequence[fx.Node],
        reads: Callable[[fx.Node], bool],
    ) -> fx.Node:
        """Makes readers of ``values`` read what an operation hands on; gives the last new node."""
        call = self._call(operation, given)
        for at, value in enumerate(values):
            part = self.graph.graph.call_function(operator.getitem, (call, at))
            self._tag(part, value)
            for reader in [u for u in value.users if reads(u)]:
                reader.replace_input_with(value, part)
        return part

    def _call(self, operation: Callable[..., Any], given: fx.Node | list[fx.Node]) -> fx.Node:
        node = self.graph.graph.call_function(operation, (given,))
        node.meta["kd_mutates"] = True  # it acts on the stream, whatever becomes of its result
        return tagged(node, "teacher", owner_of(self.first), self.first.meta["kd_span"])

    def _tag(self, node: fx.Node, value: fx.Node) -> None:
        owner = owner_of(value if value in self.beside else self.first)
        tagged(node, "teacher", owner, value.meta.get("kd_span"), shape_of(value))
        node.meta |= {k: value.meta[k] for k in ("val", "kd_path") if k in value.meta}
