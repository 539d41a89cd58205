"""Makes the two sides of every link: ``tap -> adapter -> link side``."""

from __future__ import annotations

from typing import cast

from torch import fx

from kdgraph.adapters.base import Adapter
from kdgraph.graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.graph.ops import tap
from kdgraph.passes.base import Context, tagged
from kdgraph.spec.language import LinkSpec
from kdgraph.spec.shapes import Shape, ShapeMismatch, show


def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``student.mid, teacher.mid`` -> ``mid.student = adapters.mid(student.mid), mid.teacher``.

    The adapter is chosen and built from the two shapes; an adapter that changes nothing adds
    no node.
    """
    with graph.graph.inserting_before(graph.output):
        for name, link in context.spec.links.items():
            _link(graph, context, name, link)
    return graph


def _link(graph: DistillGraph, context: Context, name: str, link: LinkSpec) -> None:
    named = graph.named()
    student, teacher = named.get(link.student), named.get(link.teacher)
    if student is None or teacher is None:
        missing = "student" if student is None else "teacher"
        context.wrong(
            "KD203",
            f"link {name!r} reads {getattr(link, missing)!r}, which is not a tap",
            context.spec.span("links", name, missing),
            help="links pair taps; a signal can be read by a loss directly",
        )
        return
    adapted = _adapt(graph, context, name, link, student, teacher)
    if adapted is not None:
        _mark(graph, context, adapted, name, "student")
        _mark(graph, context, teacher, name, "teacher")


def _adapt(
    graph: DistillGraph,
    context: Context,
    name: str,
    link: LinkSpec,
    student: fx.Node,
    teacher: fx.Node,
) -> fx.Node | None:
    shape_s, shape_t = shape_of(student), shape_of(teacher)
    span = context.spec.span("links", name)
    if shape_s is None or shape_t is None:
        side = link.student if shape_s is None else link.teacher
        context.wrong(
            "KD302",
            f"link {name!r}: {side!r} is not a single tensor",
            span,
            help="reach inside the output, as in 'output.logits' or 'layer3[0]'",
        )
        return None
    written = cast(Adapter, link.adapter)
    try:
        adapter = written.resolve(shape_s, shape_t)
        shape = adapter.shape(shape_s, shape_t)
    except ShapeMismatch as mismatch:
        place = context.spec.span("links", name, "adapter")
        context.wrong("KD301", f"link {name!r}: {mismatch}", place, help=_help(mismatch))
        return None
    context.did.append(f"{name}: {adapter.use}, {show(shape_s)} to {show(shape)}")
    if adapter.use == "identity":
        return student
    key = f"adapters.{name}"
    module = context.module(key, lambda: adapter.build(shape_s, shape_t))
    graph.root.get_submodule("adapters").add_module(name, module)
    return tagged(graph.graph.call_module(key, (student,)), "adapter", key, span, shape)


def _mark(graph: DistillGraph, context: Context, node: fx.Node, link: str, side: str) -> None:
    marker = graph.graph.call_function(tap, (node, f"{link}.{side}"))
    span = context.spec.span("links", link, side)
    shape: Shape | None = shape_of(node)
    tagged(marker, role_of(node), owner_of(node), span, shape)


def _help(mismatch: ShapeMismatch) -> str | None:
    if not mismatch.adapters:
        return None
    return f"try adapter: {' or '.join(mismatch.adapters)}"
