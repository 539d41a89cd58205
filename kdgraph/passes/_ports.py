"""How ``prune`` shortens a model that runs whole behind its ports."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdgraph.capture.ports import PortModel
from kdgraph.capture.record import Declined
from kdgraph.capture.stopping import cut, shorten
from kdgraph.graph import DistillGraph, owner_of
from kdgraph.graph.example import example_batch
from kdgraph.passes.base import Context


def shorten_ports(graph: DistillGraph, context: Context) -> None:
    """``port(x)[0]`` (of two taps) becomes ``short(x)[0]``: one tap, and then it stops."""
    for node in graph:
        if node.op != "call_module":
            continue
        port = graph.root.get_submodule(str(node.target))
        if isinstance(port, PortModel) and not port.stops and node.users:
            _shorten(graph, context, node, port)


def _shorten(graph: DistillGraph, context: Context, node: fx.Node, port: PortModel) -> None:
    model, taps = owner_of(node), list(port.taps)
    reads = {user: taps[_position(user)] for user in node.users}
    needed = [name for name in taps if name in reads.values()]
    try:
        short = shorten(port, needed, _inputs(graph, model, port))
    except Declined as reason:
        context.declined.append(f"{model}: runs to its end: {reason}")
        short = cut(port, needed)
    if short.stops:
        last = ", ".join(repr(port.taps[name].text) for name in needed)
        context.did.append(f"{model}: stops once {last} {'is' if len(needed) == 1 else 'are'} read")
    elif needed == taps:
        return
    node.target = _added(graph, model, short)
    if "val" in node.meta:
        node.meta["val"] = tuple(node.meta["val"][taps.index(name)] for name in needed)
    for user, name in reads.items():
        user.update_arg(1, needed.index(name))


def _position(user: fx.Node) -> int:
    assert user.target is operator.getitem
    position: Any = user.args[1]
    return int(position)


def _added(graph: DistillGraph, model: str, port: PortModel) -> str:
    parent = graph.root.get_submodule(f"captured.{model}")
    name = next(n for i in itertools.count() if not hasattr(parent, n := f"short_{i}"))
    holder = nn.Module()
    holder.add_module("kd_ports", port)
    parent.add_module(name, holder)
    return f"captured.{model}.{name}.kd_ports"


def _inputs(graph: DistillGraph, model: str, port: PortModel) -> Mapping[str, Tensor]:
    """Example tensors for the arguments of a model's forward."""
    device = next((p.device for p in port.original.parameters()), torch.device("cpu"))
    batch, entries = example_batch(graph.spec, device), graph.spec.inputs(model)
    if isinstance(entries, str):
        return {port.names[0]: batch[entries]}
    return {argument: batch[entry] for argument, entry in entries.items()}
