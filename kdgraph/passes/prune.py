"""Removes what no loss needs: ``teacher code past its last tap -> nothing``."""

from __future__ import annotations

from collections import Counter

from torch import fx

from kdgraph.graph import DistillGraph, owner_of, role_of
from kdgraph.passes.base import Context, register_pass


@register_pass("prune", after="attach_losses")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``layer1 -> layer2 (tapped) -> layer3 -> fc`` becomes ``layer1 -> layer2``.

    A node is removed when nothing returned depends on it. A node that changes a tensor in
    place stays with all it reads, since a view of that tensor may be needed; capture makes such
    nodes rare.
    """
    live = _live(graph)
    removed: Counter[str] = Counter()
    for node in reversed(list(graph)):
        if node in live or node.op == "placeholder":
            continue
        if role_of(node) in ("teacher", "student"):
            removed[owner_of(node)] += 1
        graph.graph.erase_node(node)
    for owner, count in sorted(removed.items()):
        left = sum(owner_of(n) == owner for n in graph)
        context.did.append(f"{owner}: {count} nodes past the last tap removed, {left} left")
    for node in graph:
        if node.meta.get("kd_mutates"):
            context.declined.append(f"%{node.name} stays: it changes a tensor in place")
    return graph


def _live(graph: DistillGraph) -> set[fx.Node]:
    """Nodes that a returned value depends on, and those behind an in-place change."""
    live: set[fx.Node] = set()
    waiting = [graph.output, *(n for n in graph if n.meta.get("kd_mutates"))]
    while waiting:
        node = waiting.pop()
        if node not in live:
            live.add(node)
            waiting += node.all_input_nodes
    return live
