"""What is known about a compiled spec: the captures, the passes, the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdgraph.capture import Captured
from kdgraph.graph import DistillGraph
from kdgraph.passes.manager import Record
from kdgraph.spec.language import Spec


@dataclass(frozen=True)
class Report:
    """Facts for ``explain``, ``draw`` and the manifest.

    Attributes:
        spec: what was compiled.
        captures: how each model was captured, by model name.
        records: one per pass, in order, with the graph before and after.
        graph: the final graph.
        seconds: time of the whole compilation.
    """

    spec: Spec
    captures: Mapping[str, Captured]
    records: tuple[Record, ...]
    graph: DistillGraph
    seconds: float
