"""What is known about one node of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx
from torch._ops import OpOverload

from kdgraph.graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.graph.cost import Cost
from kdgraph.graph.ops import apart, tap
from kdgraph.graph.printer import target_name
from kdgraph.graph.resident import weights
from kdgraph.spec.language import Spec
from kdgraph.visual.words import lettered


def parameters(graph: DistillGraph) -> dict[str, int]:
    """How many parameters each node reads; those that several read, where they are read first.

    As ``Cost`` counts them, but for those that a function reads: they count there, not at the
    node that fetches them, which no picture shows. So the sum over any graph is that of its cost.
    """
    found: dict[str, int] = {}
    seen: set[int] = set()
    for node in graph:
        if node.op != "get_attr":
            sources = (node, *(i for i in node.all_input_nodes if i.op == "get_attr"))
            read = {id(w): w.numel() for source in sources for w in weights(graph, source)}
            found[node.name] = sum(size for key, size in read.items() if key not in seen)
            seen |= read.keys()
    return found


def node_facts(
    node: fx.Node, graph: DistillGraph, cost: Cost | None, parameters: int
) -> dict[str, Any]:
    """What a picture tells of a node.

    Args:
        node: of ``graph``.
        graph: of which its modules are.
        cost: of a step of that graph, if it is known.
        parameters: as ``parameters`` counts them.

    Returns:
        ``within`` is the node of the compiled graph that it is a part of. ``inputs`` are the
        names of the nodes whose values it reads: parameters are not among them, and of a tap it
        is the node that is tapped. FLOPs and bytes are pairs, for the forward and the backward;
        None where the cost is not known.
    """
    spec = graph.spec
    shape = shape_of(node)
    path = str(node.meta.get("kd_path", ""))
    own = cost.nodes.get(node.name) if cost else None
    kind = _kind(node, graph)
    span = node.meta.get("kd_span")
    return {
        "name": node.name,
        "within": node.meta.get("kd_within", node.name),
        "title": path.rpartition(".")[2] if node.op == "call_module" and path else kind,
        "op": node.op,
        "target": target_name(node),
        "kind": kind,
        "path": path,
        "role": role_of(node),
        "owner": owner_of(node),
        "inputs": list(dict.fromkeys(_read(node))),
        "shape": None if shape is None else lettered(shape, spec),
        "dtype": _dtype(node, spec, cost),
        "parameters": parameters,
        "flops": [own.flops_forward, own.flops_backward] if own else None,
        "bytes": [own.bytes_forward, own.bytes_backward] if own else None,
        "kept": own.kept_bytes if own else None,
        "span": str(span) if span is not None else None,
    }


def _kind(node: fx.Node, graph: DistillGraph) -> str:
    if node.op == "call_module":
        return type(graph.root.get_submodule(str(node.target))).__name__
    if isinstance(node.target, OpOverload):  # ``aten.linear.default``
        return str(node.target.overloadpacket.__name__)
    return "batch" if node.op == "placeholder" else target_name(node).rpartition(".")[2]


def _read(node: fx.Node) -> Iterator[str]:
    for source in node.all_input_nodes:
        while source.target in (tap, apart):
            source = source.all_input_nodes[0]
        if source.op != "get_attr":
            yield source.name


def _dtype(node: fx.Node, spec: Spec, cost: Cost | None) -> str | None:
    if node.op == "placeholder":
        return spec.batch[str(node.target)].dtype
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return str(value.dtype).removeprefix("torch.")
    return cost.dtypes.get(node.name) if cost else None
