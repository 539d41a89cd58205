"""Computes what is equal once: ``two equal nodes -> one``."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Hashable

from torch import Tensor, fx, nn

from kdgraph.graph import DistillGraph, owner_of, role_of
from kdgraph.graph.ops import stop_gradient, tap, total
from kdgraph.passes._effects import copies, effect
from kdgraph.passes._join_ports import join_ports
from kdgraph.passes._lookup import key_of
from kdgraph.passes._same import same_module, same_tensor, same_value
from kdgraph.passes.base import Context, register_pass
from kdgraph.spec.entry import Entry

_PURE = (operator.getitem, getattr, stop_gradient)


@register_pass("merge", after="prune")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``a = pool(x); b = pool(x); f(a, b)`` -> ``a = pool(x); f(a, a)``.

    Equal are functions and methods of equal inputs; modules of equal inputs that are the same
    object, or hold the same code, settings and values; losses and signals with equal entries
    (the weight of an edge may differ: each edge stays in ``losses`` and in the total). So two
    roles that hold the same frozen network on the same input run once.

    Both of a pair run where that can be told apart: they draw random numbers, write to a tensor
    or to running statistics, or learn. A frozen model is never merged with a trained one, nor a
    snapshot, whose weights move, with any other.
    """
    join_ports(graph, context)
    _Merger(graph, context).run()
    return graph


class _Merger:
    """Numbers the values of a graph: nodes of equal keys hold the same value."""

    def __init__(self, graph: DistillGraph, context: Context) -> None:
        self.graph, self.context = graph, context
        self.same: dict[fx.Node, fx.Node] = {}  # node to the first one with its value
        self.seen: dict[Hashable, list[fx.Node]] = {}
        self.merged: Counter[tuple[str, str]] = Counter()
        self.constant = set(context.constants())
        self.writers = {owner_of(n) for n in graph if n.meta.get("kd_mutates")}

    def run(self) -> None:
        for node in list(self.graph):
            if node.target is tap:
                self.same[node] = self.first(node.all_input_nodes[0])
            elif node.op not in ("placeholder", "output") and node.target is not total:
                self._number(node)
        self._drop_unreadcopies()
        self._report()

    def first(self, node: fx.Node) -> fx.Node:
        return self.same.get(node, node)

    def _number(self, node: fx.Node) -> None:
        key = self._key(node)
        if key is None or (owner_of(node) in self.writers and node.op != "get_attr"):
            return
        for other in self.seen.setdefault(key, []):
            if not self._equal(node, other):
                continue
            if copies(node):  # what reads it may write to it; it goes if nothing reads it
                self.same[node] = other
                return
            reason = None if node.op == "get_attr" or node.target in _PURE else self._why_not(node)
            if reason is not None:
                who = f"%{other.name} ({owner_of(other)}) and %{node.name} ({owner_of(node)})"
                self.context.declined.append(f"{who} both run: each {reason}")
                return
            self.same[node] = other
            if node.op != "get_attr":
                self.merged[owner_of(other), owner_of(node)] += 1
            node.replace_all_uses_with(other)
            self.graph.graph.erase_node(node)
            return
        self.seen[key].append(node)

    def _why_not(self, node: fx.Node) -> str | None:
        """Why the value of a node is not for two to share, in words; None where it is."""
        model = owner_of(node)
        trained = model in self.context.spec.models and self.context.spec.is_trainable(model)
        if node.op == "call_module" and trained:
            module = self.graph.root.get_submodule(str(node.target))
            if any(True for _ in module.buffers()):
                return "may update its statistics"
        return effect(node, self.graph)

    def _key(self, node: fx.Node) -> Hashable | None:
        """Equal for nodes that may be equal; None where nothing can be."""
        try:
            inputs = key_of((node.args, node.kwargs), self.first)
        except TypeError:  # a constant that cannot be compared
            return None
        return (node.op, self._group(node), self._target(node), inputs)

    def _group(self, node: fx.Node) -> Hashable:
        """Nodes of two groups are never merged."""
        spec, owner = self.context.spec, owner_of(node)
        if owner not in spec.models:
            return role_of(node)
        if owner not in self.constant:
            return owner
        return ("frozen", spec.models[owner].precision)

    def _target(self, node: fx.Node) -> Hashable:
        if node.op in ("call_function", "call_method"):
            return node.target
        value = operator.attrgetter(str(node.target))(self.graph.root)
        if (entry := self._entry(node)) is not None:
            return (type(entry), _settings(entry))
        if node.op == "call_module":
            return (type(value),)
        if owner_of(node) in self.constant:  # values at the same place of two models
            return tuple(str(node.target).split(".")[2:])
        return id(value)

    def _entry(self, node: fx.Node) -> Entry | None:
        """The entry of the spec whose module a node calls."""
        part, _, name = str(node.target).partition(".")
        if node.op != "call_module":
            return None
        entry: Entry | None = None
        if part == "losses":
            entry = self.context.spec.losses.get(name)
        elif part == "signals":
            entry = self.context.spec.signals.get(name)
        return entry

    def _equal(self, node: fx.Node, other: fx.Node) -> bool:
        """Whether two nodes with equal keys hold the same value."""
        if node.op in ("call_function", "call_method"):
            return True
        look = not self.context.skeleton
        a, b = (operator.attrgetter(str(n.target))(self.graph.root) for n in (node, other))
        if a is b:
            return True
        if node.op == "get_attr":
            changes = {owner_of(node), owner_of(other)} & self.writers
            return not changes and same_tensor(a, b, look)
        if role_of(node) == "loss":
            return not (_state(a) or _state(b))
        if role_of(node) == "signal":
            return same_value(_state(a), _state(b))
        if role_of(node) == "adapter":
            return not _state(a) and same_module(a, b)
        return owner_of(node) in self.constant and same_module(a, b, look)

    def _drop_unreadcopies(self) -> None:
        for node in self.same:
            if copies(node) and not node.users:
                self.graph.graph.erase_node(node)

    def _report(self) -> None:
        spec, did = self.context.spec, self.context.did
        passing = (tap, operator.getitem)
        left = Counter(
            owner_of(n) for n in self.graph if n.op != "get_attr" and n.target not in passing
        )
        for (first, other), count in self.merged.items():
            if other in spec.models and other != first and not left[other]:
                did.append(f"{other} is the same frozen network as {first}: it runs once")
            elif other in spec.models:
                what = "node" if count == 1 else "nodes"
                did.append(f"{other}: {count} {what} with the values of {first}, computed once")
            else:
                did.append(f"{other} has the value of {first}, computed once")


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _settings(entry: Entry) -> str:
    """All that an entry says but where its tensors come from and what moves: those are inputs."""
    outside = {*entry.ref_fields(), *entry.steer_fields(), "link"}
    return repr(entry.model_dump(exclude=outside))
