"""Where the calls of one network come together in its graph, and where they part again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import fx

from kdgraph.graph import DistillGraph, owner_of
from kdgraph.graph.ops import apart, tap
from kdgraph.spec.calls import together


def joins(node: fx.Node) -> bool:
    """Whether a node puts the batches of several calls together."""
    return node.target is torch.cat and node.meta.get("kd_calls", 1) > 1


def joined(node: fx.Node) -> list[str]:
    """The batch entries that such a node puts together, and how often if more than once."""
    names: Counter[str] = Counter()
    sources: Any = node.args[0]
    for source in sources:
        while source.op != "placeholder":
            source = source.all_input_nodes[0]
        names[source.name] += 1
    return [f"{count} x {name}" if count > 1 else name for name, count in names.items()]


def parted(graph: DistillGraph, network: str) -> dict[fx.Node, str]:
    """The nodes behind the place where calls part, each with the model whose rows it holds."""
    places = together(graph.spec, network).places
    models = [
        ", ".join(dict.fromkeys(call.partition("@")[0] for call, i in places.items() if i == at))
        for at in range(1 + max(places.values()))
    ]
    found: dict[fx.Node, str] = {}
    for node in graph:
        if owner_of(node) != network or node.target is tap or not node.all_input_nodes:
            continue
        source = node.all_input_nodes[0]
        if source.target is apart:
            at = node.args[1]
            assert isinstance(at, int)
            found[node] = models[at]
        elif source in found:
            found[node] = found[source]
    return found
