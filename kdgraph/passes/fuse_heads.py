"""Computes soft targets from hidden states: ``head, head, loss -> one node, no logits``."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn.functional import linear

from kdgraph.graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.graph.ops import cast, stop_gradient, tap
from kdgraph.kernels.sparse_rows import MOST
from kdgraph.losses._module import LossModule
from kdgraph.models._lora import is_adapted
from kdgraph.passes._copies import Whole
from kdgraph.passes.base import Context, register_pass, tagged

_LINEAR = (linear, torch.ops.aten.linear.default)
_IDENTITIES = (tap, stop_gradient, cast)  # none changes what is taught


class _Refused(Exception):
    """Why an edge cannot do without logits."""


class _Head(NamedTuple):
    """A linear head in the graph: its node, what it reads, and the names behind it."""

    node: fx.Node
    hidden: fx.Node
    weight: fx.Node | str
    bias: fx.Node | str | None
    behind: list[fx.Node]


@register_pass("fuse_heads", after="rewrite_losses")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``z = head(h); soft(z, z_t)`` -> ``soft_head(h, head.weight, h_t, head_t.weight)``.

    For edges that say ``fused_head: true``. The logits of a whole batch then never exist, on any
    device; they are no outputs of the step either. Where the logits of a side are not those of a
    linear layer, or something else reads them, that is an error. The layers themselves are no
    longer called: hooks that are put on them later, and wrappers that gather their weights when
    they are called, do not run.
    """
    for node in list(graph.graph.find_nodes(op="call_module")):
        target = str(node.target)
        if role_of(node) != "loss" or not target.startswith("losses."):
            continue
        module = graph.root.get_submodule(target)
        if isinstance(module, LossModule) and getattr(module.loss, "fused_head", False):
            _fuse(graph, context, node, module)
    return graph


def _fuse(graph: DistillGraph, context: Context, node: fx.Node, module: LossModule) -> None:
    name = owner_of(node).removeprefix("losses.")
    try:
        if "row_weight" in node.kwargs:
            raise _Refused("its weight is a signal with a number for each row; a mask can be one")
        if getattr(module.loss, "tail", None) == "renormalise":
            raise _Refused("with tail: renormalise it reads no more than the listed logits")
        listed = node.kwargs.get("ids")
        if isinstance(listed, fx.Node) and (shape_of(listed) or (0,))[-1] > MOST:
            raise _Refused(f"more than {MOST} classes are listed in a row")
        sides = [s for s in ("student", "teacher") if s in node.kwargs]
        heads = {side: _head(graph, side, node) for side in sides}
    except _Refused as reason:
        span = context.spec.span("losses", name, "fused_head")
        context.wrong("KD306", f"edge {name!r} cannot have a fused head: {reason}", span)
        return
    inputs: dict[str, Any] = {k: v for k, v in node.kwargs.items() if k not in heads}
    with graph.graph.inserting_before(node):
        for side, head in heads.items():
            inputs[side] = head.hidden
            inputs[f"{side}_weight"] = _parameter(graph, head, head.weight)
            if head.bias is not None:
                inputs[f"{side}_bias"] = _parameter(graph, head, head.bias)
    path = f"{name}_head"
    graph.root.get_submodule("rewritten").add_module(path, _made(context, path, module))
    node.target, node.args, node.kwargs = f"rewritten.{path}", (), inputs
    for head in heads.values():
        for old in (*head.behind, head.node):
            graph.graph.erase_node(old)
    widths = [str((shape_of(head.hidden) or ("?",))[-1]) for head in heads.values()]
    context.did.append(f"{name}: one node over states of width {' and '.join(widths)}, no logits")


def _made(context: Context, path: str, plain: LossModule) -> nn.Module:
    from kdgraph.passes._fused_head import FusedHead  # its operators are registered on import

    return context.module(f"rewritten.{path}", lambda: FusedHead(plain))


def _head(graph: DistillGraph, side: str, loss: fx.Node) -> _Head:
    """The linear layer that a side of a loss comes from.

    Raises:
        _Refused: where there is none, or something else reads what it gives.
    """
    behind: list[fx.Node] = []
    node, reader = loss.kwargs[side], loss
    assert isinstance(node, fx.Node)
    while True:
        others = [user for user in node.users if user is not reader]
        if others:
            raise _Refused(f"the {side}'s logits are read by %{others[0].name} too")
        if node.target not in _IDENTITIES:
            break
        behind.append(node)
        node, reader = node.all_input_nodes[0], node
    if node.op == "call_function" and node.target in _LINEAR:
        read: dict[str, Any] = dict(zip(("input", "weight", "bias"), node.args, strict=False))
        read |= node.kwargs
        return _Head(node, read["input"], read["weight"], read.get("bias"), behind)
    if node.op == "call_module":
        path, (hidden, *_) = str(node.target), node.all_input_nodes
        if isinstance(graph.root.get_submodule(path), Whole):
            path = f"{path}.module"
        module = graph.root.get_submodule(path)
        if type(module) is nn.Linear and not _watched(module):
            named: Any = module.bias  # None where it has none
            bias = None if named is None else f"{path}.bias"
            return _Head(node, hidden, f"{path}.weight", bias, behind)
        what = f"{path} is a {type(module).__name__}"
        if is_adapted(module):
            what += " with low-rank adapters"
        elif type(module) is nn.Linear:
            what += " with hooks"
        raise _Refused(f"the {side}'s logits come from no plain nn.Linear: {what}")
    raise _Refused(f"the {side}'s logits come from %{node.name}, which is no linear layer")


def _watched(module: nn.Module) -> bool:
    """Whether a call of it does more than multiply."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _parameter(graph: DistillGraph, head: _Head, what: fx.Node | str) -> fx.Node:
    if isinstance(what, fx.Node):
        return what
    made = graph.graph.get_attr(what)
    shape = tuple(graph.root.get_parameter(what).shape)
    return tagged(made, role_of(head.node), owner_of(head.node), head.node.meta["kd_span"], shape)
