"""Runs small teachers of equal architecture at once: ``three networks -> one, three deep``."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from kdgraph.graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.graph.ops import tap
from kdgraph.passes._lookup import behind_taps, key_of
from kdgraph.passes._stacked import StackedLinear
from kdgraph.passes.base import Context, register_pass, tagged

MOST_WEIGHTS = 512 * 512  # of one layer

_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Identity,
)  # fmt: skip
_FUNCTIONS = (
    F.relu, F.gelu, F.silu, F.tanh, F.sigmoid, torch.relu, torch.tanh, torch.sigmoid,
    operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul,
)  # fmt: skip
_METHODS = ("relu", "tanh", "sigmoid", "add", "sub", "mul")

Bundle = tuple[fx.Node, ...]  # one node of each network


@register_pass("batch_teachers", after="precision")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``a = f(x); b = g(x)`` -> ``both = stacked(x); a, b = both[0], both[1]``.

    Frozen networks that differ in their weights alone, and read the same input, run as one whose
    weights are stacked, where that was measured to pay: networks of linear layers on vectors,
    float32, each layer of at most 512 x 512 weights, with element-wise operators between them.

    The measurements: three networks one by one / stacked, no gradient, eager, one thread of a
    CPU, medians. Three linear layers of width 32 (``baddbmm``) at batches of 1 to 128: 2.2 to
    3.0; of width 64: 1.9 to 2.7; 128: 1.7 to 2.5; 256: 1.3 to 2.2; 512: 1.2 to 1.9. At a batch
    of 512 it is 1.2 for width 64 and even from 256 on. ``torch.vmap`` over the whole network
    costs more than it saves: 0.2 to 1.0 on networks of linear layers, 0.7 to 0.9 on DeiT-tiny,
    0.7 to 1.0 on a CIFAR ResNet-8, 0.8 to 1.05 on ResNet-18 and ResNet-50 at 96 x 96, where
    a layer's work outweighs the cost of starting it. So all else declines. Not measured on a
    GPU.
    """
    groups: dict[Hashable, list[list[fx.Node]]] = {}
    for model in context.constants():
        if nodes := _body(graph, model):
            groups.setdefault(_architecture(nodes, graph), []).append(nodes)
    for networks in groups.values():
        if len(networks) < 2:
            continue
        names = ", ".join(owner_of(nodes[0]) for nodes in networks)
        bundles = list(zip(*networks, strict=True))
        reason = next((r for b in bundles if (r := _why_not(b[0], graph)) is not None), None)
        if reason is not None:
            context.declined.append(f"{names} have the same architecture, but {reason}")
            continue
        _batch(bundles, graph, context)
        layers = sum(_linear(b[0], graph) is not None for b in bundles)
        context.did.append(f"{names} run at once: {layers} linear layers, stacked")
    return graph


def _body(graph: DistillGraph, model: str) -> list[fx.Node]:
    """The nodes of a model from its first weights on; what is before them is for all to share."""
    found: dict[fx.Node, None] = {}
    for node in graph:
        if owner_of(node) != model or node.op == "get_attr" or node.target is tap:
            continue
        inputs = [behind_taps(n) for n in node.all_input_nodes]
        held = node.op == "call_module" and any(True for _ in _state(node, graph))
        if held or any(n in found or (n.op == "get_attr") for n in inputs):
            found[node] = None
    return list(found)


def _state(node: fx.Node, graph: DistillGraph) -> Iterator[torch.Tensor]:
    module = graph.root.get_submodule(str(node.target))
    yield from module.parameters()
    yield from module.buffers()


def _architecture(nodes: list[fx.Node], graph: DistillGraph) -> Hashable:
    """Equal for networks that differ in weights alone; a network's own nodes go by number."""
    order = {node: i for i, node in enumerate(nodes)}

    def first(node: fx.Node) -> Any:
        node = behind_taps(node)
        if node in order:
            return ("own", order[node])
        return "weights" if node.op == "get_attr" else node

    found: list[Hashable] = []
    for node in nodes:
        target: Hashable = node.target
        if node.op == "call_module":
            shapes = tuple((tuple(t.shape), t.dtype) for t in _state(node, graph))
            target = (repr(graph.root.get_submodule(str(node.target))), shapes)
        try:
            found.append((node.op, target, key_of((node.args, node.kwargs), first)))
        except TypeError:  # a constant that cannot be compared
            found.append(node)
    return tuple(found)


def _linear(node: fx.Node, graph: DistillGraph) -> nn.Linear | None:
    """The linear layer that a node calls."""
    if node.op != "call_module":
        return None
    module = graph.root.get_submodule(str(node.target))
    return module if type(module) is nn.Linear else None


def _why_not(node: fx.Node, graph: DistillGraph) -> str | None:
    """Why the networks of a node run one by one, in words; None where batching pays."""
    shape = shape_of(node)
    if node.meta.get("kd_mutates"):
        return f"%{node.name} writes to a tensor"
    if (layer := _linear(node, graph)) is not None:
        if layer.weight.numel() > MOST_WEIGHTS:
            size = f"{layer.in_features} x {layer.out_features}"
            return f"a linear layer of {size} is work enough to run alone"
        if type(layer.weight) is not nn.Parameter or layer.weight.dtype != torch.float32:
            return "their weights are not float32"
    elif node.op == "call_module":
        kind = type(graph.root.get_submodule(str(node.target)))
        if kind not in _MODULES:
            return f"only linear layers run faster batched, not {kind.__name__}"
    elif node.target not in (_METHODS if node.op == "call_method" else _FUNCTIONS):
        name = getattr(node.target, "__name__", node.target)
        return f"only linear layers run faster batched, not {name}"
    if any(n.op == "get_attr" for n in node.all_input_nodes):
        return f"%{node.name} reads weights that are in no layer"
    if shape is None or len(shape) != 2:
        return "only layers on vectors [B, D] run faster batched"
    return None


def _batch(bundles: list[Bundle], graph: DistillGraph, context: Context) -> None:
    """Puts one node in the place of each bundle, and an index where others read one network."""
    whole: dict[fx.Node, fx.Node] = {}
    members = {node for bundle in bundles for node in bundle}
    for bundle in bundles:
        lead = bundle[0]
        with graph.graph.inserting_before(lead):
            new = graph.graph.node_copy(lead, lambda n: whole.get(behind_taps(n), n))
        shape = shape_of(lead)
        assert shape is not None
        tagged(new, role_of(lead), owner_of(lead), lead.meta["kd_span"], (len(bundle), *shape))
        if "val" in lead.meta:
            value = lead.meta["val"]
            new.meta["val"] = value.new_empty((len(bundle), *value.shape))
        layers = [_linear(node, graph) for node in bundle]
        if layers[0] is not None:
            _stack(new, bundle, [x for x in layers if x is not None], graph, context)
        for i, node in enumerate(bundle):
            whole[node] = new
            if any(user not in members for user in node.users):
                with graph.graph.inserting_before(node):
                    one = graph.graph.call_function(operator.getitem, (new, i))
                one.meta = dict(node.meta)
                one.meta["kd_shape"] = shape
                node.replace_all_uses_with(one, lambda user: user not in members)
    for node in reversed([n for bundle in bundles for n in bundle]):
        if not node.users:
            graph.graph.erase_node(node)


def _stack(
    node: fx.Node, bundle: Bundle, layers: list[nn.Linear], graph: DistillGraph, context: Context
) -> None:
    """Lets a node call the linear layers of a bundle as one."""
    places = [str(n.target).split(".", 1)[1].replace(".", "_") for n in bundle]
    name = "_".join(["stacked", *places])
    module = context.module(f"frozen.{name}", lambda: StackedLinear(layers))
    graph.root.get_submodule("frozen").add_module(name, module)
    node.target = f"frozen.{name}"
