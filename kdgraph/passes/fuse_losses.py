"""Computes losses over the same logits together: ``four edges, one softmax per temperature``."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple

from torch import fx

from kdgraph.graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.graph.ops import tap
from kdgraph.losses._fused import FusedLosses
from kdgraph.losses._module import LossModule
from kdgraph.passes.base import Context, register_pass, tagged


class _Edge(NamedTuple):
    """A loss in the graph: its name in the spec, its node, its module."""

    name: str
    node: fx.Node
    module: LossModule


@register_pass("fuse_losses", after="select_kernels")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``losses.soft(z, t); losses.dist(z, t)`` -> ``rewritten.fused_z({soft: ..., dist: ...})``.

    Two or more edges whose student logits are the same tensor, or a signal of it, become one
    node that returns their values in order. It takes each softmax once and writes one gradient,
    by the closed forms that the losses offer.
    """
    groups: dict[str, list[_Edge]] = {}
    for node in graph:
        edge = _edge(node, graph)
        if edge is not None:
            groups.setdefault(_source(edge.node.kwargs["student"]), []).append(edge)
    for source, edges in groups.items():
        fused = [e for e in edges if e.module.loss.has_closed_form()]
        if len(fused) < 2:
            continue
        _fuse(source, fused, graph, context)
        names = ", ".join(e.name for e in fused)
        context.did.append(f"{names}: one node over {source}")
        for edge in (e for e in edges if e not in fused):
            context.declined.append(
                f"{edge.name}: stays a node of its own, {edge.module.loss.use} has no closed form"
            )
    return graph


def _edge(node: fx.Node, graph: DistillGraph) -> _Edge | None:
    """The loss that a node computes of a student tensor; None where it computes none."""
    if node.op != "call_module" or role_of(node) != "loss" or "student" not in node.kwargs:
        return None
    module = graph.root.get_submodule(str(node.target))
    if not isinstance(module, LossModule) or module.prepared:
        return None
    return _Edge(owner_of(node).removeprefix("losses."), node, module)


def _source(value: object) -> str:
    """What a student side is made of: the reference of a tensor behind signals, else its node."""
    assert isinstance(value, fx.Node)
    reference = value.name
    while value.target is tap or (role_of(value) == "signal" and len(_tensors(value)) == 1):
        reference = str(value.args[1]) if value.target is tap else reference
        (value,) = _tensors(value)
    return reference


def _tensors(node: fx.Node) -> list[fx.Node]:
    """What a node reads, without the numbers that move."""
    return [n for n in node.all_input_nodes if role_of(n) != "steer"]


def _fuse(source: str, edges: Sequence[_Edge], graph: DistillGraph, context: Context) -> None:
    name = source.replace(".", "_")
    path = f"fused_{name}"
    module = context.module(
        f"rewritten.{path}", lambda: FusedLosses({e.name: e.module for e in edges})
    )
    rewritten = graph.root.get_submodule("rewritten")
    if not hasattr(rewritten, path):
        rewritten.add_module(path, module)
    span = context.spec.span("losses")
    with graph.graph.inserting_after(edges[-1].node):  # all that any of them reads comes before
        inputs = {e.name: dict(e.node.kwargs) for e in edges}
        fused = graph.graph.call_module(f"rewritten.{path}", (inputs,))
    tagged(fused, "loss", f"fused.{name}", span)
    at = fused
    for i, edge in enumerate(edges):
        at = _value(edge.node, fused, i, at, graph)


def _value(node: fx.Node, fused: fx.Node, i: int, at: fx.Node, graph: DistillGraph) -> fx.Node:
    """Puts an item of the fused node in the place of an edge, behind ``at``; gives the last node.

    A pair of values is taken apart at once: its items may stand before the fused node.
    """
    with graph.graph.inserting_after(at):
        name = owner_of(node).replace("losses.", "value_")
        item = graph.graph.create_node("call_function", operator.getitem, (fused, i), name=name)
    last = item
    tagged(item, "loss", owner_of(node), node.meta["kd_span"], shape_of(node))
    for part in [user for user in node.users if user.target is operator.getitem]:
        with graph.graph.inserting_after(last):
            last = graph.graph.call_function(operator.getitem, (item, part.args[1]))
        tagged(last, "loss", owner_of(part), part.meta["kd_span"], shape_of(part))
        part.replace_all_uses_with(last)
        graph.graph.erase_node(part)
    node.replace_all_uses_with(item)
    graph.graph.erase_node(node)
    return last
