"""Computes losses over the same logits together: ``four edges, one softmax per temperature``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from kdgraph.graph import DistillGraph, owner_of, role_of
from kdgraph.graph.ops import tap
from kdgraph.losses._fused import FusedLosses
from kdgraph.losses._module import LossModule
from kdgraph.passes._one_node import Edge, one_node
from kdgraph.passes.base import Context, register_pass


@register_pass("fuse_losses", after="select_kernels")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``losses.soft(z, t); losses.dist(z, t)`` -> ``rewritten.fused_z({soft: ..., dist: ...})``.

    Two or more edges whose student logits are the same tensor, or a signal of it, become one
    node that returns their values in order. It takes each softmax once and writes one gradient,
    by the closed forms that the losses offer.
    """
    groups: dict[str, list[Edge]] = {}
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


def _edge(node: fx.Node, graph: DistillGraph) -> Edge | None:
    """The loss that a node computes of a student tensor; None where it computes none."""
    if node.op != "call_module" or role_of(node) != "loss" or "student" not in node.kwargs:
        return None
    module = graph.root.get_submodule(str(node.target))
    if not isinstance(module, LossModule) or module.prepared:
        return None
    return Edge(owner_of(node).removeprefix("losses."), node, module)


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


def _fuse(source: str, edges: Sequence[Edge], graph: DistillGraph, context: Context) -> None:
    name = source.replace(".", "_")
    module = context.module(
        f"rewritten.fused_{name}", lambda: FusedLosses({e.name: e.module for e in edges})
    )
    one_node(edges, f"fused.{name}", module, graph, context)
