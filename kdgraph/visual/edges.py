"""The loss edges as data: shapes, adapter, weight, and how each is computed and why."""

from __future__ import annotations

from typing import Any

from kdgraph.graph import owner_of, role_of
from kdgraph.kernels.base import KERNELS
from kdgraph.passes._kernel_loss import JoinedLosses, KernelLoss
from kdgraph.runtime.report import Report
from kdgraph.spec.entry import LossEntry
from kdgraph.visual.words import adapters, lettered, named_shape, number_words

_COMPUTED = ("rewrite_losses", "fuse_heads", "fuse_losses", "share_parts")  # in other ways


def edges(report: Report) -> dict[str, Any]:
    """Of each loss edge what it reads and how it is computed.

    Returns:
        By name: ``use``; ``reads``, each field's reference and shape; ``adapter``, by link, of
        those it goes through; ``weight``; ``kernel``, its name or None, and ``kernel_why``;
        ``computed``, what other passes did about it, and ``declined``, what they did not.
    """
    links = {name: adapter.describe() for name, adapter in adapters(report).items()}
    return {name: _edge(report, name, edge, links) for name, edge in report.spec.losses.items()}


def _edge(report: Report, name: str, edge: LossEntry, links: dict[str, str]) -> dict[str, Any]:
    reads: dict[str, dict[str, Any]] = {
        ".".join(map(str, keys)): {"from": ref, "shape": _shape(report, ref)}
        for keys, ref in edge.references()
    }
    through = dict.fromkeys(r["from"].partition(".")[0] for r in reads.values())
    kernel = _kernel(report, name)
    return {
        "use": edge.use,
        "reads": reads,
        "adapter": {link: links[link] for link in through if link in links},
        "weight": edge.weight if isinstance(edge.weight, float) else number_words(edge.weight),
        "kernel": kernel,
        "kernel_why": _why(report, name, edge),
        "computed": _said(report, name, "did", *_COMPUTED),
        "declined": _said(report, name, "declined", *_COMPUTED),
    }


def _shape(report: Report, ref: str) -> list[int | str] | None:
    if ref in report.spec.batch:
        return list(report.spec.batch[ref].shape)
    shape = named_shape(report, ref)
    return None if shape is None else lettered(shape, report.spec)


def _kernel(report: Report, name: str) -> str | None:
    """The kernel that computes an edge, alone or beside another."""
    for node in report.graph:
        if node.op != "call_module" or role_of(node) != "loss":
            continue
        module = report.graph.root.get_submodule(str(node.target))
        if isinstance(module, KernelLoss) and owner_of(node) == f"losses.{name}":
            return module.name
        if isinstance(module, JoinedLosses) and name in module.names:
            return module.name
    return None


def _why(report: Report, name: str, edge: LossEntry) -> str:
    """What select_kernels says of an edge, or why it says nothing."""
    records = [r for r in report.records if r.name == "select_kernels"]
    if not records:
        return "the pass select_kernels was left out"
    said = _said(report, name, "did", "select_kernels")
    said += _said(report, name, "declined", "select_kernels")
    if said:
        return "; ".join(said)
    if any(edge.use in kernel.losses for _, kernel in KERNELS.items()):
        return "another pass computes it"
    return f"none computes {edge.use} by itself"


def _said(report: Report, name: str, what: str, *passes: str) -> list[str]:
    """Lines of passes that start with the name of an edge, or with several, less the names."""
    found = []
    for record in report.records:
        for line in getattr(record, what) if record.name in passes else ():
            head, colon, rest = str(line).partition(": ")
            names = head.split(", ")
            if colon and name in names:
                beside = [n for n in names if n != name]
                found.append(f"{rest} (with {', '.join(beside)})" if beside else rest)
    return found
