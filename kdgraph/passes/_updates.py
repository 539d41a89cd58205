"""Which in-place changes ``prune`` keeps: those of values, and of buffers that are still read.

A batch norm past the last tap counts its batches with an operator of its own that nothing reads;
it goes with the batch norm, and stays while that stays.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx

from kdgraph.capture.observe import storage_of
from kdgraph.graph import DistillGraph, owner_of


class Updates:
    """The nodes of a graph that only write to a buffer.

    Attributes:
        always: the other nodes that change a tensor in place.
    """

    def __init__(self, graph: DistillGraph) -> None:
        self._graph = graph
        self._waiting: dict[fx.Node, int] = {}
        self.always: list[fx.Node] = []
        for node in graph:
            if node.meta.get("kd_mutates"):
                buffer = _buffer(node) if node.meta.get("kd_state") else None
                if buffer is None:
                    self.always.append(node)
                else:
                    self._waiting[node] = self._storage(buffer)

    def needed(self, live: set[fx.Node]) -> list[fx.Node]:
        """Those, each once, whose buffer or whose module's result a live node depends on."""
        if not self._waiting:
            return []
        read = {self._storage(n) for n in live if n.op == "get_attr"}
        runs = {_place(n) for n in live if n.op.startswith("call") and "kd_path" in n.meta}
        found = [n for n, at in self._waiting.items() if at in read or _place(n) in runs]
        for node in found:
            del self._waiting[node]
        return found

    def _storage(self, node: fx.Node) -> int:
        value: Any = operator.attrgetter(str(node.target))(self._graph.root)
        return storage_of(value) if isinstance(value, Tensor) else id(value)


def _place(node: fx.Node) -> tuple[str, str]:
    return owner_of(node), str(node.meta["kd_path"])


def _buffer(node: fx.Node) -> fx.Node | None:
    """The buffer whose view, or views of views, a node writes to as its first argument."""
    current: Any = node
    while isinstance(current, fx.Node) and current.op in ("call_function", "call_method"):
        current = current.args[0] if current.args else None
    return current if isinstance(current, fx.Node) and current.op == "get_attr" else None
