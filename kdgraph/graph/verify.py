"""What must hold for a DistillGraph; run after every pass."""

from __future__ import annotations

from collections import Counter

from torch import fx

from kdgraph.graph.distill_graph import DistillGraph, shape_of
from kdgraph.graph.ops import tap, total

_ROLES = {"batch", "teacher", "student", "adapter", "signal", "steer", "loss", "total"}


def verify(graph: DistillGraph) -> list[str]:
    """Everything that is wrong with a graph, in words; an empty list for a sound one."""
    faults: list[str] = []
    try:
        graph.graph.lint()
    except (RuntimeError, ValueError) as error:
        faults.append(f"fx: {error}")
    for node in graph:
        faults += _node_faults(node, graph)
    names = Counter(str(n.args[1]) for n in graph.graph.find_nodes(op="call_function", target=tap))
    faults += [f"reference {name!r} is marked {n} times" for name, n in names.items() if n > 1]
    for node in graph.graph.find_nodes(op="call_function", target=total):
        values, weights = node.args
        if len(values) != len(weights):
            faults.append(f"%{node.name} adds {len(values)} values with {len(weights)} weights")
    return faults


def _node_faults(node: fx.Node, graph: DistillGraph) -> list[str]:
    faults = []
    if node.meta.get("kd_role") not in _ROLES:
        faults.append(f"%{node.name} has no role")
    if not node.meta.get("kd_owner"):
        faults.append(f"%{node.name} has no owner")
    if node.op in ("call_module", "get_attr") and not _resolves(graph, str(node.target)):
        faults.append(f"%{node.name} refers to {node.target}, which does not exist")
    if (
        node.meta.get("kd_role") == "total"
        and node.op != "output"
        and shape_of(node) not in (None, ())
    ):
        faults.append(f"%{node.name} must be a single number, not {shape_of(node)}")
    return faults


def _resolves(graph: DistillGraph, target: str) -> bool:
    value: object = graph.root
    for part in target.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True
