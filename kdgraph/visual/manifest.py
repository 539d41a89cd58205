"""Everything that is known about a compiled spec, as data."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import fx, nn

from kdgraph.capture.ports import PortModel
from kdgraph.graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.graph.example import letter_sizes
from kdgraph.graph.ops import tap
from kdgraph.graph.printer import target_name
from kdgraph.runtime.report import Report
from kdgraph.spec.calls import expanded
from kdgraph.spec.entry import LossEntry
from kdgraph.visual.costs import costs
from kdgraph.visual.lock import lock
from kdgraph.visual.words import adapters, lettered, named_shape, number_words

VERSION = 1
_LIBRARIES = ("kdgraph", "torch", "torchvision", "timm", "transformers")


def manifest(report: Report, *, cost: bool = True, batch: int | None = None) -> dict[str, Any]:
    """The facts that ``explain`` prints and ``manifest.json`` keeps.

    Sizes are in elements, times in seconds. Shapes are those of an example batch whose free
    sizes stand in ``example_sizes``; the first size of a batch entry is given by its letter.
    With ``cost`` it says, under that key and of each node, what a step of ``batch`` rows costs.
    """
    spec = report.spec
    cost_facts = costs(report, batch) if cost else {}
    cost_of = cost_facts.pop("nodes", {})
    return {
        "kdgraph_manifest": VERSION,
        "name": spec.name,
        **({"stage": spec.leg} if spec.leg else {}),
        "spec_sha256": hashlib.sha256(lock(report, spec.folder).encode()).hexdigest(),
        "versions": versions(_LIBRARIES),
        "example_sizes": letter_sizes(spec),
        "batch": {n: list(e.shape) for n, e in spec.batch.items()},
        "models": {name: _model(report, name) for name in spec.models},
        "links": _links(report),
        "signals": {n: _entry(s) for n, s in spec.signals.items()},
        "losses": {n: _loss(e) for n, e in spec.losses.items()},
        "passes": [
            {
                "name": r.name,
                "did": list(r.did),
                "declined": list(r.declined),
                "nodes_before": len(r.before.graph.nodes),
                "nodes_after": len(r.after.graph.nodes),
            }
            for r in report.records
        ],
        **({"cost": cost_facts} if cost else {}),
        "nodes": [
            {**_node(n, report), **({"cost": cost_of[n.name]} if n.name in cost_of else {})}
            for n in report.graph
            if n.op != "output"
        ],
        "seconds": {
            "total": round(report.seconds, 3),
            "captures": {n: round(c.seconds, 3) for n, c in report.captures.items()},
            "passes": {r.name: round(r.seconds, 4) for r in report.records},
        },
    }


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Of Python and of libraries, where they are installed."""
    found = {"python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _model(report: Report, name: str) -> dict[str, Any]:
    spec, network = report.spec, report.spec.network(name)
    captured, written = report.captures[network], spec.models[network]
    weights = spec.folder / written.weights if written.weights else None
    keys = (
        ("same_as",)
        if network != name
        else ("passes", "dropout", "batch_statistics", "snapshot_of")
    )
    return {
        **{key: value for key in keys if (value := getattr(spec.models[name], key))},
        "source": written.source,
        "args": written.args,
        "weights": written.weights,
        "weights_sha256": _sha256(weights) if weights and weights.is_file() else None,
        "trainable": spec.is_trainable(name),
        "input": spec.inputs(name),
        "taps": {
            t: {"path": p, "shape": _tap_shape(report, name, t)}
            for t, p in spec.models[name].taps.items()
        },
        "capture": captured.rung,
        "declined": [{"rung": rung, "reason": reason} for rung, reason in captured.declined],
        "parameters": _size(report.graph.root.get_submodule(f"models.{network}")),
        "parameters_used": _used(_pruned(report), f"models.{network}"),
    }


def _tap_shape(report: Report, model: str, tap_name: str) -> list[int | str] | None:
    (reference, *_) = expanded(report.spec, [f"{model}.{tap_name}"])
    shape = named_shape(report, reference)
    return None if shape is None else lettered(shape, report.spec)


def _links(report: Report) -> dict[str, Any]:
    return {
        name: {
            "student": report.spec.links[name].student,
            "teacher": report.spec.links[name].teacher,
            "adapter": adapter.describe(),
            "parameters": _used(report.graph, f"adapters.{name}"),
        }
        for name, adapter in adapters(report).items()
    }


def _entry(entry: Any) -> dict[str, Any]:
    return {"use": entry.use, "reads": [ref for _, ref in entry.references()]}


def _loss(entry: LossEntry) -> dict[str, Any]:
    weight = entry.weight if isinstance(entry.weight, float) else number_words(entry.weight)
    return {**_entry(entry), "weight": weight}


def _node(node: fx.Node, report: Report) -> dict[str, Any]:
    shape, span = shape_of(node), node.meta.get("kd_span")
    named = {"tap": str(node.args[1])} if node.target is tap else {}
    return {
        "name": node.name,
        "role": role_of(node),
        "owner": owner_of(node),
        "op": node.op,
        "target": target_name(node),
        **named,
        "path": node.meta.get("kd_path", ""),
        "inputs": [n.name for n in node.all_input_nodes],
        "shape": None if shape is None else lettered(shape, report.spec),
        "span": str(span) if span is not None else None,
    }


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _pruned(report: Report) -> DistillGraph:
    """The graph without what no loss needs, where models still read parameters of their own."""
    stages = {r.name: r.after for r in report.records}
    return stages.get("prune", stages["attach_losses"])


def _used(graph: DistillGraph, path: str) -> int:
    """Elements of the parameters below ``path`` that the graph reads."""
    found: dict[int, int] = {}
    for node in graph:
        target = str(node.target)
        module = graph.root.get_submodule(target) if node.op == "call_module" else None
        if isinstance(module, PortModel) and path == f"models.{owner_of(node)}":
            own = (p for part in module.needed() for p in part.parameters(recurse=False))
            found.update((id(p), p.numel()) for p in own)
        elif module is not None and f"{target}.".startswith(f"{path}."):
            found.update((id(p), p.numel()) for p in module.parameters())
        elif node.op == "get_attr" and target.startswith(f"{path}."):
            parent, _, name = target.rpartition(".")
            value = getattr(graph.root.get_submodule(parent), name)
            if isinstance(value, nn.Parameter):
                found[id(value)] = value.numel()
    return sum(found.values())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
