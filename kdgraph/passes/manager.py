"""Runs passes in order, checks the graph after each, and keeps what each one saw and left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from kdgraph.errors import PassError, SpecError
from kdgraph.graph import DistillGraph
from kdgraph.graph.verify import verify
from kdgraph.passes.base import Context, Pass


@dataclass(frozen=True)
class Record:
    """One pass: the graph before and after, and what it says it did and declined."""

    name: str
    before: DistillGraph
    after: DistillGraph
    did: tuple[str, ...]
    declined: tuple[str, ...]
    seconds: float


def run_passes(
    graph: DistillGraph, passes: Sequence[Pass], context: Context
) -> tuple[DistillGraph, list[Record]]:
    """The graph after all passes, and a record of each.

    Raises:
        SpecError: with every mistake that a pass found in the spec.
        PassError: when a pass leaves an unsound graph; names it and the passes before it.
    """
    records: list[Record] = []
    for step in passes:
        context.did, context.declined, context.diagnostics = [], [], []
        start = time.perf_counter()
        after = step.run(graph.copy(), context)
        seconds = time.perf_counter() - start
        if context.diagnostics:
            raise SpecError(context.diagnostics)
        if faults := verify(after):
            before = ", ".join(r.name for r in records) or "none"
            raise PassError(
                f"pass {step.name!r} left an unsound graph (passes before it: {before}):\n  "
                + "\n  ".join(faults)
            )
        did, declined = tuple(context.did), tuple(context.declined)
        records.append(Record(step.name, graph, after, did, declined, seconds))
        graph = after
    return graph, records
