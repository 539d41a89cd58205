"""What a step costs, before and after the optional passes, as data."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from kdgraph.graph.cost import CannotRun, Cost, cost
from kdgraph.graph.example import example_batch
from kdgraph.runtime.report import Report
from kdgraph.spec.language import Spec
from kdgraph.spec.training import Optimizer

# Tensors that an optimiser of torch.optim keeps for each trained tensor.
OPTIMIZER_STATES = {
    "Adam": 2, "AdamW": 2, "Adamax": 2, "NAdam": 2, "RAdam": 2, "Adadelta": 2, "Rprop": 2,
    "Adagrad": 1, "RMSprop": 1, "SGD": 0,
}  # fmt: skip


def costs(report: Report, batch: int | None = None) -> dict[str, Any]:
    """The cost of a step; FLOPs as torch counts them, all sizes in bytes.

    Args:
        report: of a plan or a compilation.
        batch: rows in the batch; left out: those of the stage or the ``data`` block, else of the
            example.

    Returns:
        ``batch`` and ``batch_from``, where its size was found. Where a model does not run on fake
        tensors, ``unknown``: the reason. Else ``total``; sums by ``roles`` and by ``owners``
        (models, links, signals, loss edges); ``memory`` at the peak of the step and its sum
        ``peak_bytes``; ``optimizer``, whose state adds to that; the same ``before_passes``; and
        ``nodes`` by name.
    """
    start = time.perf_counter()
    size, origin = batch_rows(report.spec, batch)
    facts: dict[str, Any] = {"batch": size, "batch_from": origin}
    try:
        after = cost(report.graph, size)
        before = _before(report, after, size)
    except CannotRun as reason:
        return {**facts, "unknown": str(reason)}
    return {
        **facts,
        **cost_facts(report.spec, after, before),
        "nodes": {name: asdict(node) for name, node in after.nodes.items()},
        "seconds": round(time.perf_counter() - start, 3),
    }


def cost_facts(spec: Spec, after: Cost, before: Cost) -> dict[str, Any]:
    """The sums of a step behind the optional passes, and before them."""
    return {
        **_sums(after),
        "optimizer": _optimizer(spec, after),
        "before_passes": _sums(before),
    }


def batch_rows(spec: Spec, asked: int | None = None) -> tuple[int, str]:
    """The rows of the batch, and in words where their number comes from."""
    written = getattr(spec.data, "batch_size", None)
    shape = next(iter(example_batch(spec, batch=asked or written).values())).shape
    size = shape[0] if shape else 1
    if not any(isinstance(s, str) for entry in spec.batch.values() for s in entry.shape[:1]):
        return size, "the spec's shapes"
    if asked is not None:
        return size, "--batch"
    return size, spec.batch_from if written is not None else "example"


def _before(report: Report, after: Cost, batch: int) -> Cost:
    """The cost of the graph as the spec says it, to which no optional pass has been."""
    graph = next(r.after for r in report.records if r.name == "attach_losses")
    return after if str(graph) == str(report.graph) else cost(graph, batch)


def _sums(found: Cost) -> dict[str, Any]:
    return {
        "total": asdict(found.total),
        "roles": {role: asdict(sums) for role, sums in found.by_role().items()},
        "owners": {owner: asdict(sums) for owner, sums in found.by_owner().items()},
        "memory": asdict(found.memory),
        "peak_bytes": found.peak_bytes,
    }


def _optimizer(spec: Spec, found: Cost) -> dict[str, Any] | None:
    if spec.train is None:
        return None
    written = spec.train.optimizer
    copies = optimizer_copies(written)
    return {
        "use": written.use,
        "state_bytes": None if copies is None else copies * found.memory.trained,
    }


def optimizer_copies(written: Optimizer) -> int | None:
    """How many tensors of the size of the parameters an optimiser keeps."""
    given = written.arguments
    if written.use not in OPTIMIZER_STATES:
        return None
    further = (given.get(key) for key in ("momentum", "amsgrad", "centered"))
    return OPTIMIZER_STATES[written.use] + sum(bool(value) for value in further)
