"""Computes once what several losses compute of one tensor: ``two losses, one softmax``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from kdgraph.graph import DistillGraph, owner_of, shape_of
from kdgraph.graph.ops import tap
from kdgraph.losses._module import LossModule
from kdgraph.passes._lookup import behind_taps, key_of
from kdgraph.passes.base import Context, register_pass, tagged
from kdgraph.spec.shapes import Shape


@dataclass(frozen=True)
class _Use:
    """A part of one loss: the node of the loss, the input it stands for, what computes it."""

    loss: fx.Node
    field: str
    make: partial[Any]


@register_pass("share_parts", after="fuse_losses")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``soft(z, t); dist(z, u)`` -> ``p = log_probabilities(z); soft(p, t); dist(p, u)``.

    What a loss computes of one tensor alone, it says in ``parts``. A part that two of them have
    in common, of the same tensor with the same numbers, becomes a node of its own. What nobody
    shares stays inside its loss.
    """
    found: dict[Hashable, list[_Use]] = {}
    for node in graph:
        for use in _parts(node, graph):
            key = (use.make.func, key_of((use.make.args, use.make.keywords)))
            found.setdefault(key, []).append(use)
    prepared: dict[fx.Node, dict[str, fx.Node]] = {}
    for uses in found.values():
        if len(uses) > 1:
            value = _node(uses, graph)
            for use in uses:
                prepared.setdefault(use.loss, {})[use.field] = value
            names = ", ".join(sorted({owner_of(u.loss).split(".")[1] for u in uses}))
            read = _reference(uses[0].make.args[0])
            context.did.append(f"{names}: {_words(uses[0].make)} of {read} computed once")
    for loss, values in prepared.items():
        _prepare(loss, values, graph, context)
    return graph


def _parts(node: fx.Node, graph: DistillGraph) -> list[_Use]:
    """The parts of a loss that are not yet nodes; none where it learns something itself."""
    if node.op != "call_module":
        return []
    module = graph.root.get_submodule(str(node.target))
    if not isinstance(module, LossModule) or next(module.parameters(), None) is not None:
        return []
    parts = module.loss.parts(**node.kwargs)
    return [_Use(node, f, make) for f, make in parts.items() if f not in module.prepared]


def _node(uses: list[_Use], graph: DistillGraph) -> fx.Node:
    """The node of a part, before the first loss that reads it."""
    use = uses[0]
    with graph.graph.inserting_before(use.loss):
        node = graph.graph.call_function(use.make.func, use.make.args, use.make.keywords)
    return tagged(node, "loss", owner_of(use.loss), use.loss.meta["kd_span"], _shape(use.make))


def _shape(make: partial[Any]) -> Shape | None:
    """The shape of a part at the example batch; None where an input has none."""
    values = [*make.args, *make.keywords.values()]
    shapes = {v: shape_of(v) for v in values if isinstance(v, fx.Node)}
    with FakeTensorMode(), torch.no_grad():
        made = {node: torch.empty(shape) for node, shape in shapes.items() if shape is not None}
        if len(made) < len(shapes):
            return None
        args = [made.get(v, v) if isinstance(v, fx.Node) else v for v in make.args]
        keywords = {
            k: made.get(v, v) if isinstance(v, fx.Node) else v for k, v in make.keywords.items()
        }
        value: Tensor = make.func(*args, **keywords)
    return tuple(int(size) for size in value.shape)


def _prepare(
    node: fx.Node, values: Mapping[str, fx.Node], graph: DistillGraph, context: Context
) -> None:
    """Lets a loss read what others compute for it too."""
    before = graph.root.get_submodule(str(node.target))
    assert isinstance(before, LossModule)
    loss, fields = before.loss, sorted({*before.prepared, *values})
    name = "_".join([owner_of(node).split(".")[1], "of", *fields])
    module = context.module(f"rewritten.{name}", lambda: LossModule(loss, {}, prepared=fields))
    graph.root.get_submodule("rewritten").add_module(name, module)
    node.target = f"rewritten.{name}"
    node.kwargs = {**node.kwargs, **values}


def _words(make: partial[Any]) -> str:
    """``log probabilities (4.0)``."""
    numbers = [str(v) for v in make.args[1:] if not isinstance(v, fx.Node)]
    name = make.func.__name__.replace("_", " ")
    return f"{name} ({', '.join(numbers)})" if numbers else name


def _reference(node: fx.Node) -> str:
    """The name by which the spec reads a value."""
    names = [str(u.args[1]) for u in behind_taps(node).users if u.target is tap]
    return names[0] if names else f"%{node.name}"
