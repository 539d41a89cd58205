"""Adds links and signals: ``taps -> adapted link sides, derived tensors``."""

from __future__ import annotations

from typing import cast

import networkx as nx
from torch import fx

from kdgraph.adapters.base import Adapter
from kdgraph.graph import DistillGraph, shape_of
from kdgraph.passes._wiring import Wiring
from kdgraph.passes.base import Context, tagged
from kdgraph.signals.base import Signal
from kdgraph.spec.calls import spread
from kdgraph.spec.language import LinkSpec, Spec
from kdgraph.spec.shapes import ShapeMismatch, show


def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``student.mid, teacher.mid`` -> ``mid.student = adapters.mid(student.mid), mid.teacher``.

    Signals and links are added in the order in which they read each other. An adapter is
    chosen and built from the two shapes; one that changes nothing adds no node.
    """
    wiring = Wiring(graph, context)
    with graph.graph.inserting_before(graph.output):
        for name in _order(context.spec):
            if name in context.spec.links:
                _link(wiring, name, context.spec.links[name])
            else:
                _signal(wiring, name, cast(Signal, context.spec.signals[name]))
    return graph


def _order(spec: Spec) -> list[str]:
    """Links and signals, each behind what it reads; the reader has refused cycles."""
    reads = {name: [link.student, link.teacher] for name, link in spec.links.items()}
    reads |= {name: [ref for _, ref in s.references()] for name, s in spec.signals.items()}
    flow: nx.DiGraph[str] = nx.DiGraph()
    flow.add_nodes_from(reads)
    for name, refs in reads.items():
        sources = {ref.partition(".")[0] for ref in refs}
        flow.add_edges_from((source, name) for source in sources if source in reads)
    return list(nx.lexicographical_topological_sort(flow))


def _signal(wiring: Wiring, name: str, signal: Signal) -> None:
    signal = spread(wiring.spec, signal)
    inputs = wiring.inputs(signal, "signals", name)
    if inputs is None:
        return
    shapes = wiring.shapes(signal, inputs, "signals", name)
    if shapes is None or not wiring.steered(signal, inputs, shapes, "signals", name):
        return
    shape = wiring.result(signal, shapes, "signals", name)
    if shape is not None:
        node = wiring.call(f"signals.{name}", signal, inputs, shapes, shape)
        wiring.mark(node, name, "signals", name)
        wiring.context.did.append(f"signal {name}: {signal.use}, {show(shape)}")


def _link(wiring: Wiring, name: str, link: LinkSpec) -> None:
    if link.student not in wiring.named or link.teacher not in wiring.named:
        return
    teacher = wiring.named[link.teacher]
    student = _adapted(wiring, name, link, wiring.named[link.student], teacher)
    if student is not None:
        wiring.mark(student, f"{name}.student", "links", name, "student")
        wiring.mark(teacher, f"{name}.teacher", "links", name, "teacher")


def _adapted(
    wiring: Wiring, name: str, link: LinkSpec, student: fx.Node, teacher: fx.Node
) -> fx.Node | None:
    """The student side of a link behind its adapter; None where nothing fits."""
    context, graph = wiring.context, wiring.graph
    shape_s, shape_t = shape_of(student), shape_of(teacher)
    if shape_s is None or shape_t is None:
        side = "student" if shape_s is None else "teacher"
        wiring.no_tensor(f"link {name!r} reads {getattr(link, side)!r}", "links", name, side)
        return None
    try:
        adapter = cast(Adapter, link.adapter).resolve(shape_s, shape_t)
        shape = adapter.shape(shape_s, shape_t)
    except ShapeMismatch as mismatch:
        help = f"try adapter: {' or '.join(mismatch.adapters)}" if mismatch.adapters else None
        span = context.spec.span("links", name, "adapter")
        context.wrong("KD301", f"link {name!r}: {mismatch}", span, help)
        return None
    context.did.append(f"link {name}: {adapter.describe()}, {show(shape_s)} to {show(shape)}")
    if adapter.use == "identity":
        return student
    key = f"adapters.{name}"
    module = context.module(key, lambda: adapter.build(shape_s, shape_t))
    graph.root.get_submodule("adapters").add_module(name, module)
    node = graph.graph.call_module(key, (student,))
    return tagged(node, "adapter", key, context.spec.span("links", name), shape)
