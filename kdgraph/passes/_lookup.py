"""Arguments of nodes as keys: equal arguments, equal keys."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from torch import Tensor, fx

from kdgraph.graph.ops import tap


def behind_taps(node: fx.Node) -> fx.Node:
    """The node whose value a marker names; any other node itself."""
    while node.target is tap:
        node = node.all_input_nodes[0]
    return node


def key_of(value: Any, first: Callable[[fx.Node], fx.Node] = behind_taps) -> Hashable:
    """Something to look up; constants of two types differ, and ``first`` stands for a node.

    Raises:
        TypeError: for a constant that cannot be compared.
    """
    if isinstance(value, fx.Node):
        return first(value)
    if isinstance(value, list | tuple):
        return (type(value).__name__, tuple(key_of(v, first) for v in value))
    if isinstance(value, Mapping):
        return ("of", tuple((k, key_of(v, first)) for k, v in sorted(value.items())))
    if isinstance(value, slice):
        return ("slice", key_of((value.start, value.stop, value.step), first))
    if isinstance(value, Tensor):
        return id(value)
    hash(value)
    return (type(value), repr(value) if isinstance(value, float) else value)
