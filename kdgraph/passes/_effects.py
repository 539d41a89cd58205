"""What a node does beside giving a value, found by running it apart."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from kdgraph.capture.liveness import Watch
from kdgraph.capture.observe import version_of
from kdgraph.capture.ports import PortModel
from kdgraph.capture.record import tensors_in
from kdgraph.capture.twin import fake_like, state_of, twin, written
from kdgraph.capture.world import quiet, untouched_random_state
from kdgraph.graph import DistillGraph, owner_of, shape_of
from kdgraph.graph.ops import tap

DRAWS = "draws random numbers"
Like = Callable[[Tensor], Tensor]  # what stands for a tensor while code is examined


def copies(node: fx.Node) -> bool:
    """Whether a node makes a copy, which whoever reads it may write to."""
    return node.target is torch.clone or (node.op == "call_method" and node.target == "clone")


def effect(node: fx.Node, graph: DistillGraph) -> str | None:
    """Why two equal nodes cannot share one value, in words; None where they can.

    A module of a trained model, and an adapter, is looked at in train mode. Writing to a copy
    that nothing else reads is no effect. Code that asks for values runs on copies of the real
    ones.
    """
    if _known_pure(node.target):
        return None
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    error: Exception | None = None
    for like in (lambda t: fake_like(t, mode), _copy):
        try:
            return _effect(node, graph, like, mode if like is not _copy else nullcontext())
        except Exception as raised:  # the model's own code may raise anything
            error = raised
    return f"could not be examined ({type(error).__name__})"


def _effect(
    node: fx.Node, graph: DistillGraph, like: Like, mode: AbstractContextManager[Any]
) -> str | None:
    log = Watch()
    with quiet(), untouched_random_state() as drawn, torch.no_grad():
        values = {n: _value(n, graph, like) for n in node.all_input_nodes}
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        module, held = _module(node, graph, like)
        shared = [n for n in values if not (copies(n) and len(n.users) == 1)]
        read = [t for n in shared for t in tensors_in(values[n])]
        read += [*held.parameters(), *held.buffers()]
        versions, facts = [version_of(t) for t in read], state_of(held)
        with mode, log:
            _call(node, module, args, kwargs)
        if log.draws or drawn():
            return DRAWS
    if log.updates:
        return "updates its statistics"
    if versions != [version_of(t) for t in read]:
        return "writes to a tensor that it reads"
    name = written(held, facts)
    return None if name is None else f"sets {name}"


def _known_pure(target: object) -> bool:
    """Whether the description of an operator says enough; a batch norm's hides its writes."""
    return (
        isinstance(target, torch._ops.OpOverload)
        and not target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in target.tags
        and "batch_norm" not in target._schema.name
    )


def _call(node: fx.Node, module: nn.Module, args: Any, kwargs: Any) -> Any:
    if node.op == "call_module":
        return module(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _module(node: fx.Node, graph: DistillGraph, like: Like) -> tuple[nn.Module, nn.Module]:
    """A copy of what a node calls, and of what holds its state; empty for a function."""
    if node.op != "call_module":
        return nn.Module(), nn.Module()
    called = graph.root.get_submodule(str(node.target))
    held = twin(called.original if isinstance(called, PortModel) else called, like)
    model = owner_of(node)
    if model not in graph.spec.models or graph.spec.is_trainable(model):
        held.train()
    if isinstance(called, PortModel):
        return PortModel(held, called.names, called.taps, called.copied, stops=called.stops), held
    return held, held


def _value(node: fx.Node, graph: DistillGraph, like: Like) -> Any:
    """An input of the node; float32 where only its shape is known."""
    while node.target is tap:
        node = node.all_input_nodes[0]
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(graph.root)
    elif "val" in node.meta:
        value = node.meta["val"]
    else:
        shape = shape_of(node)
        if shape is None:
            raise LookupError(f"no shape of {node.name}")
        entry = graph.spec.batch.get(str(node.target)) if node.op == "placeholder" else None
        dtype = getattr(torch, entry.dtype) if entry is not None else torch.float32
        value = torch.empty(shape, dtype=dtype, device="meta")
    return pytree.tree_map_only(Tensor, like, value)


def _copy(value: Tensor) -> Tensor:
    """A tensor to run on; zeros for one without values."""
    if value.is_meta or isinstance(value, FakeTensor):
        return torch.zeros(value.shape, dtype=value.dtype)
    copy = value.detach().clone()
    return nn.Parameter(copy, requires_grad=False) if isinstance(value, nn.Parameter) else copy
