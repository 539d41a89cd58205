"""What the passes did to each node, and in whose words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import fx

from kdgraph.graph import DistillGraph, owner_of
from kdgraph.graph.printer import target_name
from kdgraph.passes._kernel_loss import JoinedLosses, KernelLoss
from kdgraph.passes.manager import Record


class History:
    """Follows nodes by name through the passes.

    Args:
        records: of the passes whose work is told, in order.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._of: dict[str, dict[str, str]] = {}  # node, pass, what
        for record in records:
            before = {n.name: n for n in record.before}
            after = {n.name: n for n in record.after}
            for name in dict.fromkeys([*before, *after]):
                was, now = before.get(name), after.get(name)
                if what := _what(was, now, record):
                    self._of.setdefault(name, {})[record.name] = what

    def of(self, name: str) -> list[dict[str, str]]:
        """Each pass that touched a node, with what it did."""
        return [{"pass": p, "what": w} for p, w in self._of.get(name, {}).items()]

    def passes(self, names: Iterable[str], done: Sequence[str]) -> list[str]:
        """Which of the passes that are ``done`` touched any of some nodes."""
        touched = {p for name in names for p in self._of.get(name, {})}
        return [name for name in done if name in touched]

    def why(self, names: Iterable[str], done: Sequence[str]) -> str | None:
        """The same in words: what each of the passes said, once."""
        said = [(p, w) for name in names for p, w in self._of.get(name, {}).items() if p in done]
        return "\n".join(f"{p}: {w}" for p, w in dict.fromkeys(said)) or None


def kernels(nodes: Iterable[fx.Node], graph: DistillGraph) -> list[str]:
    """The kernels that compute some nodes on a GPU."""
    called = (graph.root.get_submodule(str(n.target)) for n in nodes if n.op == "call_module")
    parts = (part for module in called for part in module.modules())
    found = (part.name for part in parts if isinstance(part, KernelLoss | JoinedLosses))
    return list(dict.fromkeys(found))


def _what(was: fx.Node | None, now: fx.Node | None, record: Record) -> str | None:
    """What a pass did to a node; None where it left it alone."""
    node = now or was
    assert node is not None
    told = "; ".join(line for line in record.did if _is_about(line, node))
    if was is None:
        return told or "made by this pass"
    if now is None:
        return "cut, as nothing reads it" if record.name == "prune" else told or "replaced"
    if (was.op, target_name(was)) != (now.op, target_name(now)):
        return told or f"was {target_name(was)}"
    return None


def _is_about(line: str, node: fx.Node) -> bool:
    """Whether what a pass said names the node's owner: ``label, soft: one node over ...``."""
    subject, colon, _ = line.partition(":")
    return _owners(node) <= set(re.findall(r"[\w.]+", subject if colon else line))


def _owners(node: fx.Node) -> set[str]:
    """The model, link, signal or loss edge that a node is of; of joined edges, all."""
    part, _, owner = owner_of(node).rpartition(".")
    joined = node.args[0] if node.op == "call_module" and part in ("fused", "kernel") else None
    return set(joined) if isinstance(joined, Mapping) else {owner}
