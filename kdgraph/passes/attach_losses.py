"""Adds signals, loss edges and the weighted total: ``named values -> loss``."""

from __future__ import annotations

import operator
from typing import Any, cast

import networkx as nx
from torch import fx

from kdgraph.graph import DistillGraph, Role, role_of, shape_of
from kdgraph.graph.ops import stop_gradient, tap, total
from kdgraph.graph.steer import Steer, schedules
from kdgraph.losses.base import Loss, RowLoss
from kdgraph.passes.base import Context, tagged
from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Entry
from kdgraph.spec.shapes import Shape, ShapeMismatch
from kdgraph.spec.steer import Schedule


def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``links, taps`` -> ``soft = losses.soft(student=..., teacher=...); loss = total(...)``.

    Returns ``{loss, losses: {edge: unweighted}, outputs: {reference: value}}``, where the
    outputs are the taps that some edge reads and every output tap of a trainable model.
    """
    return _Attach(graph, context).run()


class _Attach:
    """One run of the pass: the graph, and the values that have names so far."""

    def __init__(self, graph: DistillGraph, context: Context) -> None:
        self.graph = graph
        self.context = context
        self.spec = context.spec
        self.named = graph.named()

    def run(self) -> DistillGraph:
        edges: dict[str, fx.Node] = {}
        weighted: list[tuple[fx.Node, fx.Node | float]] = []
        with self.graph.graph.inserting_before(self.graph.output):
            for name in self._signal_order():
                self._signal(name)
            for name, loss in self.spec.losses.items():
                added = self._loss(name, cast(Loss, loss))
                if added is not None:
                    edges[name], pair = added
                    weighted.append(pair)
            if self.context.diagnostics:
                return self.graph
            values, weights = [v for v, _ in weighted], [w for _, w in weighted]
            loss_node = self.graph.graph.call_function(total, (values, weights))
        tagged(loss_node, "total", "total", self.spec.span("losses"), ())
        outputs = self._outputs()
        self.graph.output.args = ({"loss": loss_node, "losses": edges, "outputs": outputs},)
        self.context.did.append(f"{len(edges)} edges, {len(self.spec.signals)} signals")
        return self.graph

    def _signal_order(self) -> list[str]:
        """Signals, each behind the ones it reads; the reader has refused cycles."""
        reads = nx.DiGraph()
        reads.add_nodes_from(self.spec.signals)
        for name, signal in self.spec.signals.items():
            sources = (ref for _, ref in signal.references() if ref in self.spec.signals)
            reads.add_edges_from((source, name) for source in sources)
        return list(nx.lexicographical_topological_sort(reads))

    def _signal(self, name: str) -> None:
        signal = cast(Signal, self.spec.signals[name])
        inputs = self._inputs(signal, "signals", name)
        shape = self._checked(signal, inputs, "signals", name)
        if shape is None:
            return
        key = f"signals.{name}"
        node = self._call(key, signal, inputs, shape)
        marker = self.graph.graph.call_function(tap, (node, name))
        span = self.spec.span("signals", name)
        self.named[name] = tagged(marker, "signal", key, span, shape)

    def _loss(
        self, name: str, loss: Loss
    ) -> tuple[fx.Node, tuple[fx.Node, fx.Node | float]] | None:
        inputs = self._inputs(loss, "losses", name)
        if "teacher" in inputs and self._learns(inputs["teacher"]):
            inputs["teacher"] = self._detached(inputs["teacher"], name)
        key, span = f"losses.{name}", self.spec.span("losses", name)
        weight = inputs.pop("weight")
        if self._checked(loss, inputs, "losses", name) is None:
            return None
        if not isinstance(loss.weight, str):
            node = self._call(key, loss, inputs, ())
            return node, (node, weight)
        if not isinstance(loss, RowLoss):
            self.context.wrong(
                "KD303",
                f"edge {name!r}: {loss.use} has one value for the whole batch, so its weight "
                "cannot be a signal",
                self.spec.span("losses", name, "weight"),
                help="give a number or a schedule",
            )
            return None
        pair = self._call(key, loss, {**inputs, "row_weight": weight}, None)
        get = self.graph.graph.call_function
        plain = tagged(get(operator.getitem, (pair, 0)), "loss", key, span, ())
        return plain, (tagged(get(operator.getitem, (pair, 1)), "loss", key, span, ()), 1.0)

    def _call(self, key: str, entry: Any, inputs: dict[str, Any], shape: Shape | None) -> fx.Node:
        part, name = key.split(".")
        module = self.context.module(key, entry.module)
        self.graph.root.get_submodule(part).add_module(name, module)
        node = self.graph.graph.call_module(key, kwargs=inputs)
        role: Role = "loss" if part == "losses" else "signal"
        return tagged(node, role, key, self.spec.span(part, name), shape)

    def _inputs(self, entry: Entry, part: str, name: str) -> dict[str, Any]:
        """Nodes for tensors and moving numbers, constants for the rest of the steered ones."""
        inputs: dict[str, Any] = {}
        for field in entry.ref_fields():
            value = getattr(entry, field)
            if isinstance(value, str):
                inputs[field] = self.named[value]
            elif value is not None:
                inputs[field] = [self.named[v] for v in value]
        for field in entry.steer_fields():
            value = getattr(entry, field)
            if isinstance(value, Schedule):
                inputs[field] = self._steer(part, name, field)
            elif value is not None:
                inputs[field] = self.named[value] if isinstance(value, str) else value
        return inputs

    def _steer(self, part: str, name: str, field: str) -> fx.Node:
        """The buffer that holds a scheduled number."""
        steer = self.context.module("steer", lambda: Steer(schedules(self.spec)))
        self.graph.root.add_module("steer", steer)
        node = self.graph.graph.get_attr(f"steer.{part}_{name}_{field}")
        return tagged(node, "steer", f"{part}.{name}", self.spec.span(part, name, field), ())

    def _checked(self, entry: Any, inputs: dict[str, Any], part: str, name: str) -> Shape | None:
        """Runs the entry's shape rule; notes what does not fit, with the adapter that would."""
        shapes: dict[str, Any] = {}
        for field in entry.ref_fields():
            if field in inputs:
                value = inputs[field]
                many = isinstance(value, list)
                found = [shape_of(v) for v in (value if many else [value])]
                if None in found:
                    span = self.spec.span(part, name, field)
                    self.context.wrong(
                        "KD302",
                        f"{name!r} reads {getattr(entry, field)!r}, which is not a single tensor",
                        span,
                        help="reach inside the output, as in 'output.logits' or 'layer3[0]'",
                    )
                    return None
                shapes[field] = found if many else found[0]
        try:
            if isinstance(entry, Loss):
                entry.shapes(**shapes)
                return ()
            result: Shape = entry.shape(**shapes)
            return result
        except ShapeMismatch as mismatch:
            what = "edge" if part == "losses" else "signal"
            self.context.wrong(
                "KD301",
                f"{what} {name!r} ({entry.use}): {mismatch}",
                self.spec.span(part, name),
                help=_fix(mismatch, entry),
            )
            return None

    def _learns(self, node: Any) -> bool:
        """Whether a value depends on something that is trained."""
        waiting, seen = [node], set()
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                if role_of(current) in ("student", "adapter"):
                    return True
                waiting += current.all_input_nodes
        return False

    def _detached(self, node: fx.Node, loss: str) -> fx.Node:
        self.context.did.append(f"{loss}: no gradient into its teacher side, which is trained too")
        stopped = self.graph.graph.call_function(stop_gradient, (node,))
        return tagged(stopped, "loss", f"losses.{loss}", node.meta["kd_span"], shape_of(node))

    def _outputs(self) -> dict[str, fx.Node]:
        read = {ref for e in self.spec.losses.values() for _, ref in e.references()}
        read |= {ref for e in self.spec.signals.values() for _, ref in e.references()}
        read |= {ref for x in self.spec.links.values() for ref in (x.student, x.teacher)}
        for model, description in self.spec.models.items():
            if self.spec.is_trainable(model):
                outputs = (t for t, path in description.taps.items() if path.startswith("output"))
                read |= {f"{model}.{t}" for t in outputs}
        models = tuple(f"{m}." for m in self.spec.models)
        return {n: v for n, v in self.named.items() if n in read and n.startswith(models)}


def _fix(mismatch: ShapeMismatch, entry: Entry) -> str | None:
    """The change in the spec that would make the shapes fit."""
    if not mismatch.adapters:
        return None
    signals = [a.removeprefix("signal ") for a in mismatch.adapters if a.startswith("signal ")]
    if signals:
        return f"a signal `use: {signals[0]}` on one side makes them fit"
    wanted = " or ".join(mismatch.adapters)
    if getattr(entry, "link", None):
        return f"give link {entry.link!r} `adapter: {wanted}`"  # type: ignore[attr-defined]
    return f"pair the two taps in a link with `adapter: {wanted}` and write `link:` here"
