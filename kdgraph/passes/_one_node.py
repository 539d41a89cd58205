"""Several loss edges become one node that returns their values in order."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple

from torch import fx, nn

from kdgraph.graph import DistillGraph, owner_of, shape_of
from kdgraph.losses._module import LossModule
from kdgraph.passes.base import Context, tagged


class Edge(NamedTuple):
    """A loss in the graph: its name in the spec, its node, its module."""

    name: str
    node: fx.Node
    module: LossModule


def one_node(
    edges: Sequence[Edge], name: str, module: nn.Module, graph: DistillGraph, context: Context
) -> None:
    """``module({name: inputs of the edge, ...})`` in the place of edges in the graph's order.

    Args:
        edges: nodes of losses; a value that is a pair is taken apart as before.
        name: ``fused.student_logits`` is the owner of the node, and its module, below
            ``rewritten``, is called ``fused_student_logits``.
        module: takes the inputs by edge, and returns one value per edge.
        graph: is changed.
        context: knows where the losses stand in the spec.
    """
    path = name.replace(".", "_")
    rewritten = graph.root.get_submodule("rewritten")
    if not hasattr(rewritten, path):
        rewritten.add_module(path, module)
    with graph.graph.inserting_after(edges[-1].node):  # all that any of them reads comes before
        inputs = {e.name: dict(e.node.kwargs) for e in edges}
        node = graph.graph.call_module(f"rewritten.{path}", (inputs,))
    tagged(node, "loss", name, context.spec.span("losses"))
    at = node
    for i, edge in enumerate(edges):
        at = _value(edge.node, node, i, at, graph)


def _value(node: fx.Node, whole: fx.Node, i: int, at: fx.Node, graph: DistillGraph) -> fx.Node:
    """Puts an item of the whole in the place of an edge, behind ``at``; gives the last node.

    A pair of values is taken apart at once: its items may stand before the whole.
    """
    with graph.graph.inserting_after(at):
        name = owner_of(node).replace("losses.", "value_")
        item = graph.graph.create_node("call_function", operator.getitem, (whole, i), name=name)
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
