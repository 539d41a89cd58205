"""Computes losses by GPU kernels where there is one: ``losses.soft -> its kernel, over it``."""

from __future__ import annotations

from typing import NamedTuple

import torch

from kdgraph.graph import DistillGraph, owner_of, role_of
from kdgraph.kernels.base import KERNELS, Kernel, interpreted
from kdgraph.kernels.softmax_rows import joins
from kdgraph.losses._module import LossModule
from kdgraph.losses.base import Loss
from kdgraph.passes._kernel_loss import JoinedLosses, KernelLoss
from kdgraph.passes._one_node import Edge, one_node
from kdgraph.passes._sizes import Sizes, shapes_at, sizes
from kdgraph.passes.base import Context, register_pass
from kdgraph.spec.shapes import Shape


class _Taken(NamedTuple):
    """An edge and the kernel that computes it."""

    edge: Edge
    name: str
    kernel: Kernel


@register_pass("select_kernels", after="fuse_heads")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``soft = losses.soft(...)`` -> ``soft = rewritten.kernel_soft(...)``, on a CUDA device.

    The first kernel that computes a loss at its shapes takes it, and the cross-entropy of the same
    student logits with it where it can. This comes before losses are fused or share what they
    compute, because a kernel reads the raw tensors. On a machine without CUDA nothing changes.
    ``kernel: reference`` on an edge keeps its loss as it is.
    """
    at = sizes(graph.spec)
    edges = _edges(graph)
    taken = [t for edge in edges if (t := _taken(edge, context, at)) is not None]
    for one in taken:
        label = next((e for e in edges if _joins(one.edge, e, at)), None)
        if label is None:
            _alone(one, graph, context)
        else:
            edges.remove(label)
            _together(one, label, graph, context)
    return graph


def _edges(graph: DistillGraph) -> list[Edge]:
    """The losses of the graph, in its order."""
    found = []
    for node in graph:
        if node.op == "call_module" and role_of(node) == "loss":
            module = graph.root.get_submodule(str(node.target))
            if isinstance(module, LossModule):
                found.append(Edge(owner_of(node).removeprefix("losses."), node, module))
    return found


def _taken(edge: Edge, context: Context, at: Sizes) -> _Taken | None:
    """The kernel of an edge; says why there is none where one might be expected."""
    loss = edge.module.loss
    known = [(name, kernel) for name, kernel in KERNELS.items() if loss.use in kernel.losses]
    if not known:
        return None
    if loss.kernel == "reference":
        context.declined.append(f"{edge.name}: left to its reference, as the edge says")
        return None
    name, kernel, why = _first(known, loss, shapes_at(loss, edge.node.kwargs, at))
    if why is not None:
        context.declined.append(f"{edge.name}: {name}: {why}")
        return None
    if not (torch.cuda.is_available() or interpreted()):
        context.declined.append(f"{edge.name}: {name} would compute it on CUDA, which is not here")
        return None
    return _Taken(edge, name, kernel)


def _first(
    known: list[tuple[str, Kernel]], loss: Loss, shapes: dict[str, Shape]
) -> tuple[str, Kernel, str | None]:
    """The first kernel that takes the loss; else the first there is, and why it does not."""
    answers = [(name, kernel, kernel.declines(loss, **shapes)) for name, kernel in known]
    return next((a for a in answers if a[2] is None), answers[0])


def _joins(edge: Edge, other: Edge, at: Sizes) -> bool:
    """Whether a kernel can compute ``other`` beside ``edge``, from the same student logits."""
    same = other.node.kwargs.get("student") is edge.node.kwargs["student"]
    if not same or other is edge or other.module.loss.kernel == "reference":
        return False
    shapes = shapes_at(other.module.loss, other.node.kwargs, at)
    return joins(edge.module.loss, other.module.loss, **shapes) is None


def _alone(one: _Taken, graph: DistillGraph, context: Context) -> None:
    edge, path = one.edge, f"kernel_{one.edge.name}"
    made = context.module(
        f"rewritten.{path}", lambda: KernelLoss(one.name, one.kernel, edge.module)
    )
    graph.root.get_submodule("rewritten").add_module(path, made)
    edge.node.target = f"rewritten.{path}"
    context.did.append(f"{edge.name}: {one.name} on CUDA, its reference elsewhere")


def _together(one: _Taken, label: Edge, graph: DistillGraph, context: Context) -> None:
    both = {edge.node: edge for edge in (one.edge, label)}
    edges = [both[node] for node in graph if node in both]
    name = f"kernel.{edges[0].name}_{edges[1].name}"
    module = context.module(
        f"rewritten.{name}",
        lambda: JoinedLosses(
            one.name, one.kernel, {e.name: e.module for e in edges}, one.edge.name
        ),
    )
    one_node(edges, name, module, graph, context)
    names = f"{edges[0].name}, {edges[1].name}"
    context.did.append(f"{names}: {one.name}, both at once on CUDA, their references elsewhere")
