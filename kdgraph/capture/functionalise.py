"""Makes a captured graph pure: a value, once computed, never changes.

    a = conv(x)                      a = conv(x)
    t = keep(a)          ->          b = relu(a)
    b = relu_(a)                     output a, b
    output t, b

In-place operations become out-of-place ones. Whatever else writes to a value (a whole submodule
that changes its argument) gets a copy to write to, and later readers read the copy. Where
several views of the value are read later, the write stays, is marked ``kd_mutates``, and the
taps read before it are copied instead. Without this a tap would show what a later layer made of
it, and removing dead code would drop writes that are alive.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdgraph.capture.inplace import out_of_place, promotes
from kdgraph.capture.observe import Observed, RawCapture, observe
from kdgraph.capture.record import field, keep
from kdgraph.capture.world import World

_ROUNDS = 20


def functionalise(raw: RawCapture, world: World, first: Observed) -> None:
    """Rewrites the graph in place; ``first`` is what a run of it showed."""
    seen, graph = first, raw.graph
    modules = dict(world.module.named_modules(remove_duplicate=False))
    for _ in range(_ROUNDS):
        if not _rewrite(graph, seen, modules):
            break
        seen = observe(raw, world)
    _settle(graph, seen)
    _tidy(graph)


def _rewrite(graph: fx.Graph, seen: Observed, modules: dict[str, nn.Module]) -> bool:
    """Mends every write that can be mended; whether there was one."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    state = _state(seen)
    changed = False
    for node, written in seen.written.items():
        touched = [a for a in node.all_input_nodes if seen.storages[a] & written]
        if written & state or len(touched) != 1:
            continue
        value = touched[0]
        if value.meta.get("kd_copy") and not _alive(value, written, node, seen, order):
            continue  # a copy made for this very node
        if _alive(value, written, node, seen, order) or not isinstance(seen.values[value], Tensor):
            continue
        later = [user for user in value.users if order.get(user, -1) > order[node]]
        same = _same_value(seen.values[node], seen.values[value])
        if same and node.args[:1] == (value,) and out_of_place(node, modules):
            result = _in_type_of(value, node) if promotes(node) else node
        else:
            with graph.inserting_before(node):
                result = graph.call_function(torch.clone, (value,))
            result.meta.update(kd_path=node.meta.get("kd_path", ""), kd_copy=True)
            node.replace_input_with(value, result)
        if result is not node:
            order[result] = order[node]
            seen.storages[result], seen.values[result] = seen.storages[value], seen.values[value]
        for user in later:
            user.replace_input_with(value, result)
        changed = True
    return changed


def _in_type_of(value: fx.Node, node: fx.Node) -> fx.Node:
    with node.graph.inserting_after(node):
        result = node.graph.call_method("type_as", (node, value))
    result.meta["kd_path"] = node.meta.get("kd_path", "")
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)
    return result


def _alive(
    value: fx.Node, written: frozenset[int], at: fx.Node, seen: Observed, order: dict[fx.Node, int]
) -> bool:
    """Whether another view of what ``at`` writes to is read after it."""
    for other, storages in seen.storages.items():
        if other in (value, at) or not storages & written or order[other] > order[at]:
            continue
        if other.target is not keep and any(order[u] > order[at] for u in other.users):
            return True
    return False


def _same_value(result: Any, value: Any) -> bool:
    return (
        isinstance(result, Tensor)
        and isinstance(value, Tensor)
        and (result.shape, result.dtype, result.stride(), result.storage_offset())
        == (value.shape, value.dtype, value.stride(), value.storage_offset())
    )


def _state(seen: Observed) -> frozenset[int]:
    found = (seen.storages[node] for node in seen.storages if node.op == "get_attr")
    return frozenset().union(*found)


def _settle(graph: fx.Graph, seen: Observed) -> None:
    """Marks the writes that stay and copies what must not see them."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    last: dict[int, int] = {}  # storage to the last place where it is written to
    state = _state(seen)
    for node, written in seen.written.items():
        touched = [a for a in node.all_input_nodes if seen.storages[a] & written]
        private = all(a.meta.get("kd_copy") and len(a.users) == 1 for a in touched)
        if private or (written <= state and not _writes_on_purpose(node)):
            continue
        node.meta["kd_mutates"] = True
        node.meta["kd_state"] = written <= state
        last.update(dict.fromkeys(written, order[node]))
    body = next(n for n in graph.nodes if n.op != "placeholder")
    for node in list(graph.nodes):
        if max((last.get(s, -1) for s in seen.storages[node]), default=-1) <= order[node]:
            continue
        if node.op == "placeholder" or node.target is keep:
            with graph.inserting_before(body if node.op == "placeholder" else node.next):
                _copy(graph, node)


def _copy(graph: fx.Graph, node: fx.Node) -> None:
    copy = graph.call_function(torch.clone, (node,))
    copy.meta.update({k: v for k, v in node.meta.items() if k in ("kd_path", "val")})
    node.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)


def _writes_on_purpose(node: fx.Node) -> bool:
    """Whether a write to a buffer is all that the node is for (``counter.add_(1)``).

    Running statistics are not: a batch norm that nobody reads may go, statistics and all.
    """
    name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
    return name.endswith("_") or not node.users


def _tidy(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        node.meta.pop("kd_copy", None)
        if node.target is keep:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is field:
            value: Any = node.args[0]
            node.target = operator.getitem if isinstance(value.meta["val"], Mapping) else getattr
    graph.lint()
