"""Whose rows a tensor has, where batch entries differ in their number of rows."""

from __future__ import annotations

from torch import fx

from kdgraph.graph import DistillGraph

Letter = str | int


class Letters:
    """The first sizes of batch entries, and which of them a value of the graph follows.

    Entries whose first letters differ are told apart by what a value is computed of: at the
    example batch they all have as many rows. A letter goes before a number, which no batch moves;
    of two letters the first of the batch counts.
    """

    def __init__(self, graph: DistillGraph) -> None:
        self.batch = graph.graph.find_nodes(op="placeholder")
        entries = graph.spec.batch
        self._own = {node: entries[str(node.target)].shape[0] for node in self.batch}
        self._found: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in graph:
            self._sources(node)

    def _sources(self, node: fx.Node) -> frozenset[fx.Node]:
        """The entries that a value depends on."""
        if node not in self._found:
            own = [frozenset([node])] if node in self._own else []
            of = [*own, *(self._sources(n) for n in node.all_input_nodes)]
            self._found[node] = frozenset().union(*of)
        return self._found[node]

    def of(self, node: fx.Node) -> Letter | None:
        """What says how many rows a value has; None where no batch changes it."""
        sources = self._sources(node)
        sizes = [size for entry, size in self._own.items() if entry in sources]
        return next((s for s in sizes if isinstance(s, str)), next(iter(sizes), None))

    def entries(self, node: fx.Node) -> list[fx.Node]:
        """The batch entries with the rows of a value; all of them where it has none."""
        letter = self.of(node)
        return [n for n, size in self._own.items() if letter in (None, size)]
