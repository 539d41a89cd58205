"""Frees an exported graph from what held only where it was exported.

Checks of sizes and types go (autocast changes types), and the device of the inputs is asked for
when the graph runs:

    arange(5, device=cpu)      ->   arange(5, device=x.device)
    with autocast("cpu", off)  ->   with autocast(x.device.type, off)
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

_AUTOCAST = torch.ops.higher_order.wrap_with_autocast
_CHECKS = ("_assert", "sym_constrain_range", "_check")


def make_portable(module: fx.GraphModule, home: torch.device) -> None:
    """Rewrites the graph of ``module``, and those of the regions in it, in place.

    Args:
        module: what ``torch.export`` made.
        home: the device of the inputs that it was made with.
    """
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            for node in list(part.graph.nodes):
                if getattr(node.target, "__name__", "").startswith(_CHECKS):
                    part.graph.erase_node(node)
            _Devices(part.graph, home).rewrite()
            _drop_unused(part.graph)
            part.recompile()


class _Devices:
    def __init__(self, graph: fx.Graph, home: torch.device) -> None:
        self._graph, self._home = graph, home
        self._device: fx.Node | None = None
        inputs = [n for n in graph.nodes if n.op == "placeholder"]
        values = [(n, n.meta.get("val")) for n in inputs]
        found = [n for n, val in values if isinstance(val, Tensor) and val.device == home]
        self._source = found[0] if found else None
        self._body = next(n for n in graph.nodes if n not in inputs)

    def rewrite(self) -> None:
        if self._source is None:
            return
        for node in list(self._graph.nodes):
            if node.op != "call_function" or node.target is operator.getitem:
                continue
            args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), self._follow)
            if node.target is _AUTOCAST and args[2] is False and args[0] == self._home.type:
                with self._graph.inserting_before(node):
                    kind = self._get(self._node(), "type")
                args = (kind, *args[1:])
            node.args, node.kwargs = args, kwargs

    def _follow(self, value: Any) -> Any:
        own = isinstance(value, torch.device) and value == self._home
        return self._node() if own else value

    def _node(self) -> fx.Node:
        if self._device is None:
            assert self._source is not None
            with self._graph.inserting_before(self._body):
                self._device = self._get(self._source, "device")
        return self._device

    def _get(self, node: fx.Node, name: str) -> fx.Node:
        new = self._graph.call_function(getattr, (node, name))
        if "nn_module_stack" in node.meta:
            new.meta["nn_module_stack"] = node.meta["nn_module_stack"]
        return new


def _drop_unused(graph: fx.Graph) -> None:
    """Removes what only the checks used: sizes, comparisons of sizes, attributes."""
    for node in reversed(list(graph.nodes)):
        name = getattr(node.target, "__name__", "")
        plain = (
            node.op == "get_attr"
            or name.startswith("sym_")
            or (
                getattr(node.target, "__module__", None) in ("_operator", "math", "torch")
                and node.target is not operator.getitem
            )
        )
        if plain and not node.users:
            graph.erase_node(node)
