"""Computes losses by GPU kernels where there is one: ``losses.soft -> its kernel, over it``."""

from __future__ import annotations

import torch
from torch import fx

from kdgraph.graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.kernels.base import KERNELS, Kernel, interpreted
from kdgraph.losses._module import LossModule
from kdgraph.losses.base import Loss
from kdgraph.passes._kernel_loss import KernelLoss
from kdgraph.passes.base import Context, register_pass
from kdgraph.spec.shapes import Shape


@register_pass("select_kernels", after="rewrite_losses")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``soft = losses.soft(...)`` -> ``soft = rewritten.soft_kernel(...)``, on a CUDA device.

    The first kernel that computes a loss at its shapes takes it, before losses are fused or
    share what they compute: a kernel reads the raw tensors. On a machine without CUDA nothing
    changes. ``kernel: reference`` on an edge keeps its loss as it is.
    """
    for node in graph.graph.find_nodes(op="call_module"):
        if role_of(node) != "loss":
            continue
        module = graph.root.get_submodule(str(node.target))
        if isinstance(module, LossModule):
            _select(graph, context, node, module)
    return graph


def _select(graph: DistillGraph, context: Context, node: fx.Node, module: LossModule) -> None:
    edge = owner_of(node).removeprefix("losses.")
    known = [(name, k) for name, k in KERNELS.items() if module.loss.use in k.losses]
    if not known:
        return
    if module.loss.kernel == "reference":
        context.declined.append(f"{edge}: left to its reference, as the edge says")
        return
    name, kernel, why = _first(known, module.loss, _shapes(module.loss, node))
    if why is not None:
        context.declined.append(f"{edge}: {name}: {why}")
        return
    if not (torch.cuda.is_available() or interpreted()):
        context.declined.append(f"{edge}: {name} would compute it on CUDA, which is not here")
        return
    path = f"{edge}_kernel"
    made = context.module(f"rewritten.{path}", lambda: KernelLoss(name, kernel, module))
    graph.root.get_submodule("rewritten").add_module(path, made)
    node.target = f"rewritten.{path}"
    context.did.append(f"{edge}: {name} on CUDA, its reference elsewhere")


def _first(
    known: list[tuple[str, Kernel]], loss: Loss, shapes: dict[str, Shape]
) -> tuple[str, Kernel, str | None]:
    """The first kernel that takes the loss; else the first there is, and why it does not."""
    answers = [(name, kernel, kernel.declines(loss, **shapes)) for name, kernel in known]
    return next((a for a in answers if a[2] is None), answers[0])


def _shapes(loss: Loss, node: fx.Node) -> dict[str, Shape]:
    """The shapes of a loss's tensors by field, at the example batch."""
    shapes: dict[str, Shape] = {}
    for field in loss.ref_fields():
        value = node.kwargs.get(field)
        shape = shape_of(value) if isinstance(value, fx.Node) else None
        if shape is not None:
            shapes[field] = shape
    return shapes
