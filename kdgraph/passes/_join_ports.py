"""How ``merge`` runs a model once that two roles run whole behind ports of their own."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence

from torch import fx

from kdgraph.capture.ports import PortModel
from kdgraph.capture.taps import TapPath
from kdgraph.graph import DistillGraph, owner_of
from kdgraph.passes._effects import effect
from kdgraph.passes._lookup import key_of
from kdgraph.passes.base import Context


def join_ports(graph: DistillGraph, context: Context) -> None:
    """``a = port(x)[0]; b = other(x)[0]`` of one model becomes ``both(x)[0], both(x)[1]``.

    Afterwards the two nodes call the same module on the same input, so that they are equal.
    """
    groups: dict[Hashable, list[fx.Node]] = {}
    for node in graph:
        if (port := port_of(node, graph)) is not None:
            model = graph.spec.models[owner_of(node)]
            if not graph.spec.is_trainable(owner_of(node)):
                key = (id(port.original), port.names, key_of(node.args), model.precision)
                groups.setdefault(key, []).append(node)
    for nodes in groups.values():
        if len({str(node.target) for node in nodes}) < 2:
            continue
        if (reason := effect(nodes[0], graph)) is not None:
            names = ", ".join(owner_of(node) for node in nodes)
            context.declined.append(f"{names} each run the same network: it {reason}")
        else:
            _join(nodes, graph)


def port_of(node: fx.Node, graph: DistillGraph) -> PortModel | None:
    """The ports that a node calls."""
    if node.op != "call_module":
        return None
    module = graph.root.get_submodule(str(node.target))
    return module if isinstance(module, PortModel) else None


def _join(nodes: Sequence[fx.Node], graph: DistillGraph) -> None:
    ports = [port for node in nodes if (port := port_of(node, graph)) is not None]
    known: dict[TapPath, str] = {}  # each under the name that it had first
    for i, port in enumerate(ports):
        for name, path in port.taps.items():
            known.setdefault(path, f"{i}.{name}")
    taps = {name: path for path, name in known.items()}
    copied = {known[p.taps[name]] for p in ports for name in p.copied}
    joined = PortModel(
        ports[0].original,
        ports[0].names,
        taps,
        copied,
        stops=all(p.stops for p in ports),
        unused=frozenset.intersection(*(p.unused for p in ports)),
    )
    place = "_".join(["ports", *(owner_of(n) for n in nodes)])
    graph.root.get_submodule("frozen").add_module(place, joined)
    order = [known[path] for path in taps.values()]
    values = {
        known[path]: node.meta["val"][i]
        for node, port in zip(nodes, ports, strict=True)
        for i, path in enumerate(port.taps.values())
    }
    for node, port in zip(nodes, ports, strict=True):
        paths = list(port.taps.values())
        for user in list(node.users):
            assert user.target is operator.getitem
            position = user.args[1]
            assert isinstance(position, int)
            user.update_arg(1, order.index(known[paths[position]]))
        node.target = f"frozen.{place}"
        node.meta["val"] = tuple(values[name] for name in order)
