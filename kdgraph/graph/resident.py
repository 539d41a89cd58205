"""What a compiled step holds before it runs: parameters, buffers, constants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdgraph.graph.conv import FusedConv2d
from kdgraph.graph.distill_graph import DistillGraph
from kdgraph.graph.meter import bytes_of


def resident(graph: DistillGraph) -> Iterator[Tensor]:
    """Every tensor that a compiled step holds: of frozen models only what is read."""
    for name in graph.spec.networks:
        if graph.spec.is_trainable(name):
            yield from _tensors(graph.root.get_submodule(f"models.{name}"))
    for node in graph:
        yield from _read(graph, node)


def _read(graph: DistillGraph, node: fx.Node) -> Iterator[Tensor]:
    """Parameters and buffers that a node reads."""
    if node.op == "call_module":
        yield from _tensors(graph.root.get_submodule(str(node.target)))
    elif node.op == "get_attr":
        parent, _, name = str(node.target).rpartition(".")
        value: Any = getattr(graph.root.get_submodule(parent), name)
        if isinstance(value, Tensor):
            yield value


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for part in modules_below(module):
        yield from (
            v for v in (*part._parameters.values(), *part._buffers.values()) if v is not None
        )


def weights(graph: DistillGraph, node: fx.Node) -> Iterator[Tensor]:
    """What a node reads that is, or was before passes rewrote it, a parameter."""
    made = str(node.target).startswith("frozen.")
    return (t for t in _read(graph, node) if made or isinstance(t, nn.Parameter))


def packed_bytes(graph: DistillGraph) -> int:
    """Bytes of the weights that are packed once the step has run, which is done on a CPU only."""
    library: Any = torch.backends.mkldnn
    if not (library.is_available() and library.enabled):
        return 0
    calls = graph.graph.find_nodes(op="call_module")
    modules = {graph.root.get_submodule(str(node.target)) for node in calls}
    found = (m.weight for m in modules if isinstance(m, FusedConv2d))
    return sum(bytes_of(w) for w in found if w.device.type == "cpu" and w.dtype == torch.float32)


def modules_below(module: nn.Module) -> Iterator[nn.Module]:
    """A module and all in it; those too that it holds without having registered them."""
    waiting, seen = [module], set()
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            yield current
            waiting += current.children()
            waiting += (v for v in vars(current).values() if isinstance(v, nn.Module))
