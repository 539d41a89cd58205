"""Captured models side by side in one graph: what the pipeline starts from."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import fx, nn

from kdgraph.capture import Captured
from kdgraph.graph import DistillGraph, Role
from kdgraph.graph.example import example_batch
from kdgraph.graph.ops import apart
from kdgraph.spec.calls import Together, together
from kdgraph.spec.language import Spec


def inline_models(spec: Spec, captures: Mapping[str, Captured]) -> DistillGraph:
    """``captured models -> one graph`` that returns every tap by its reference."""
    graph = fx.Graph()
    root = nn.Module()
    for part in ("models", "captured", "frozen", "adapters", "signals", "losses", "rewritten"):
        root.add_module(part, nn.Module())
    batch: dict[str, fx.Node] = {}
    for name, value in example_batch(spec).items():
        node = graph.placeholder(name)
        node.meta = _meta("batch", name, spec, "batch", name)
        node.meta["kd_shape"] = tuple(value.shape)
        batch[name] = node
    taps: dict[str, fx.Node] = {}
    for name, captured in captures.items():
        root.get_submodule("models").add_module(name, captured.root)
        root.get_submodule("captured").add_module(name, _extras(captured))
        calls = together(spec, name)
        given = _given(graph, captured, calls, batch, spec)
        returned = _inline(graph, captured, name, given, spec)
        taps |= _by_reference(graph, returned, calls, spec)
    graph.output(dict(taps)).meta = _meta("total", "output", spec, "losses")
    return DistillGraph(graph, root, spec)


def _meta(role: Role, owner: str, spec: Spec, *keys: str) -> dict[str, object]:
    return {"kd_role": role, "kd_owner": owner, "kd_span": spec.span(*keys)}


def _model_meta(spec: Spec, model: str) -> dict[str, object]:
    role: Role = "student" if spec.is_trainable(model) else "teacher"
    return _meta(role, model, spec, "models", model)


def _extras(captured: Captured) -> nn.Module:
    """What a capture made beside the model, under names without dots."""
    extras = nn.Module()
    for name, value in captured.extras.items():
        extras.register_buffer(_flat(name), value, persistent=False)
    for name, module in captured.modules.items():
        extras.add_module(_flat(name), module)
    return extras


def _flat(target: str) -> str:
    return target.replace(".", "_")


def _given(
    graph: fx.Graph, captured: Captured, calls: Together, batch: Mapping[str, fx.Node], spec: Spec
) -> dict[str, fx.Node]:
    """What a network reads, by argument: a batch entry, or those of all its calls together."""
    given: dict[str, fx.Node] = {}
    for node in captured.graph.find_nodes(op="placeholder"):
        entries = [batch[name] for name in calls.entries(str(node.target))]
        given[str(node.target)] = entries[0]
        if len(entries) > 1:
            joined = graph.call_function(torch.cat, (entries,))
            joined.meta = {"val": node.meta["val"], **_model_meta(spec, calls.models[0])}
            joined.meta["kd_calls"] = len(entries)
            given[str(node.target)] = joined
    return given


def _by_reference(
    graph: fx.Graph, returned: Mapping[str, fx.Node], calls: Together, spec: Spec
) -> dict[str, fx.Node]:
    """The taps of a network by reference: of several calls, each the rows of its own call."""
    taps: dict[str, fx.Node] = {}
    parts: dict[fx.Node, list[fx.Node]] = {}
    for call, at in calls.places.items():
        model, repeated, number = call.partition("@")
        for tap in spec.models[model].taps:
            value = returned[f"{model}.{tap}" if calls.several else tap]
            if len(calls.batches) > 1:
                if value not in parts:
                    parts[value] = _apart(graph, value, len(calls.batches))
                value = parts[value][at]
            taps[f"{model}.{tap}{repeated}{number}"] = value
    return taps


def _apart(graph: fx.Graph, value: fx.Node, batches: int) -> list[fx.Node]:
    """The rows of each batch of a value."""
    whole = graph.call_function(apart, (value, batches))
    found = [graph.call_function(operator.getitem, (whole, i)) for i in range(batches)]
    pieces = apart(value.meta["val"], batches)
    for node, piece in zip([whole, *found], [pieces, *pieces], strict=True):
        node.meta = {k: value.meta[k] for k in ("kd_role", "kd_owner", "kd_span", "kd_path")}
        node.meta["val"] = piece
    return found


def _inline(
    graph: fx.Graph,
    captured: Captured,
    model: str,
    given: Mapping[str, fx.Node],
    spec: Spec,
) -> dict[str, fx.Node]:
    """Copies a captured graph in, its attributes under ``models.NAME``; returns its taps."""
    made = {*captured.extras, *captured.modules}
    values: dict[fx.Node, fx.Node] = {}
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            values[node] = given[str(node.target)]
        elif node.op == "output":
            returned = node.args[0]
            assert isinstance(returned, dict)
            return {tap: values[value] for tap, value in returned.items()}
        else:
            copied = graph.node_copy(node, values.__getitem__)
            if node.op in ("call_module", "get_attr"):
                own = str(node.target) in made
                copied.target = (
                    f"captured.{model}.{_flat(str(node.target))}"
                    if own
                    else f"models.{model}.{node.target}"
                )
            copied.meta = {**node.meta, **_model_meta(spec, model)}
            values[node] = copied
    raise AssertionError("a captured graph has an output")
