"""Captured models side by side in one graph: what the pipeline starts from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from kdgraph.capture import Captured
from kdgraph.graph import DistillGraph, Role
from kdgraph.graph.example import example_batch
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
        role: Role = "student" if spec.is_trainable(name) else "teacher"
        for tap, node in _inline(graph, captured, name, role, batch, spec).items():
            taps[f"{name}.{tap}"] = node
    graph.output(dict(taps)).meta = _meta("total", "output", spec, "losses")
    return DistillGraph(graph, root, spec)


def _meta(role: Role, owner: str, spec: Spec, *keys: str) -> dict[str, object]:
    return {"kd_role": role, "kd_owner": owner, "kd_span": spec.span(*keys)}


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


def _inline(
    graph: fx.Graph,
    captured: Captured,
    model: str,
    role: Role,
    batch: Mapping[str, fx.Node],
    spec: Spec,
) -> dict[str, fx.Node]:
    """Copies a captured graph in, its attributes under ``models.NAME``; returns its taps."""
    inputs = spec.inputs(model)
    made = {*captured.extras, *captured.modules}
    values: dict[fx.Node, fx.Node] = {}
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            entry = inputs if isinstance(inputs, str) else inputs[str(node.target)]
            values[node] = batch[entry]
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
            copied.meta = {**node.meta, **_meta(role, model, spec, "models", model)}
            values[node] = copied
    raise AssertionError("a captured graph has an output")
