"""The graph as a networkx digraph, for questions that graph theory answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import networkx as nx
from torch import fx

from kdgraph.graph.distill_graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.graph.printer import target_name


def view(graph: DistillGraph) -> nx.DiGraph[str]:
    """Nodes by name with ``role``, ``owner``, ``path``, ``shape``, ``op``; edges are data flow."""
    result: nx.DiGraph[str] = nx.DiGraph()
    for node in graph:
        if node.op == "output":
            continue
        result.add_node(
            node.name,
            op=node.op,
            target=target_name(node),
            role=role_of(node),
            owner=owner_of(node),
            path=node.meta.get("kd_path", ""),
            shape=shape_of(node),
        )
        result.add_edges_from((source.name, node.name) for source in node.all_input_nodes)
    return result


def dead(graph: DistillGraph) -> list[str]:
    """Names of nodes from which no returned value can be reached, in graph order."""
    flow = view(graph)
    live = {n.name for n in graph.output.all_input_nodes}
    for name in list(live):
        live |= nx.ancestors(flow, name)
    return [name for name in flow if name not in live]


def lifetimes(graph: DistillGraph) -> dict[str, tuple[int, int]]:
    """For each node the position where it is made and where it is last read."""
    order: dict[fx.Node, int] = {node: i for i, node in enumerate(graph)}
    return {
        node.name: (at, max((order[user] for user in node.users), default=at))
        for node, at in order.items()
        if node.op != "output"
    }


def cycle(edges: Mapping[str, Iterable[str]]) -> Sequence[str] | None:
    """A cycle ``[a, b, a]`` in "reads from" relations, or None."""
    graph = nx.DiGraph((source, name) for name, reads in edges.items() for source in reads)
    try:
        found = nx.find_cycle(graph)
    except nx.NetworkXNoCycle:
        return None
    return [str(a) for a, _ in found] + [str(found[0][0])]
