"""One node for what follows a convolution: ``relu(bn(conv(x)) + y) -> conv'(x, y)``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from kdgraph.graph.conv import FusedConv2d
from kdgraph.passes._fold import Layer, folded, layer_of, norm_of
from kdgraph.passes._frozen import FrozenModel

_aten: Any = torch.ops.aten
_ADDS = (operator.add, torch.add, _aten.add.Tensor)
_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
}
_FUNCTIONS: dict[Any, str] = {
    functional.relu: "relu",
    torch.relu: "relu",
    _aten.relu.default: "relu",
    functional.relu6: "relu6",
    functional.silu: "silu",
    _aten.silu.default: "silu",
    functional.hardswish: "hardswish",
    _aten.hardswish.default: "hardswish",
}


def fold_and_fuse(model: FrozenModel, *, fuse: bool) -> None:
    """Folds every batch norm that can be; with ``fuse`` every 2d convolution becomes fused."""
    for node in model.nodes():
        layer = layer_of(model, node) if node.users else None
        if layer is None:
            continue
        chain = [node]
        user = only_user(node)
        norm = (
            norm_of(model, user) if user is not None and user.all_input_nodes[0] is node else None
        )
        if user is not None and norm is not None and (better := folded(layer, norm)) is not None:
            layer = better
            chain.append(user)
            model.done["# batch norm* folded into the layer in front"] += 1
        if fuse and fusable(layer):
            _fuse(model, layer, chain)
        elif len(chain) > 1:
            _replace(model, layer, chain, layer.build, None)
    model.drop_unread()


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads another, where there is just one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def fusable(layer: Layer) -> bool:
    """Whether a layer is a plain 2d convolution."""
    module = layer.module
    return (
        type(module).forward is nn.Conv2d.forward
        and module.padding_mode == "zeros"
        and _padding(layer) is not None
        and layer.node.meta["val"].dim() == 4
    )


def _padding(layer: Layer) -> list[int] | None:
    """The padding in numbers; None where it is not the same on both sides."""
    module: Any = layer.module
    if module.padding == "valid":
        return [0, 0]
    if module.padding != "same":
        return list(module.padding)
    total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return [t // 2 for t in total] if all(t % 2 == 0 for t in total) else None


def _fuse(model: FrozenModel, layer: Layer, chain: list[fx.Node]) -> None:
    other = _added(chain[-1])
    if other is not None:
        chain.append(next(iter(chain[-1].users)))
        model.done["# addition* joined to the convolution in front"] += 1
    activation = _activation(model, chain[-1])
    if activation is not None and (other is None or activation == "relu"):
        chain.append(next(iter(chain[-1].users)))
        model.done["# activation* joined to the convolution in front"] += 1
    else:
        activation = "none"
    module: Any = layer.module
    padding, groups = _padding(layer) or [0, 0], module.groups
    options: tuple[Any, ...] = (module.stride, padding, module.dilation, groups, activation)
    _replace(model, layer, chain, lambda: FusedConv2d(*_numbers(layer), *options), other)


def _numbers(layer: Layer) -> tuple[Tensor, Tensor | None]:
    return layer.weight.detach(), None if layer.bias is None else layer.bias.detach()


def _replace(
    model: FrozenModel,
    layer: Layer,
    chain: list[fx.Node],
    make: Callable[[], nn.Module],
    other: fx.Node | None,
) -> None:
    """One call in the place of a chain of nodes, where the last of them stood."""
    target = model.add(_place(layer), make)
    for name, tensor in layer.made_of:
        model.reads(name, tensor)
    args = (layer.x,) if other is None else (layer.x, other)
    with model.graph.graph.inserting_before(chain[-1]):
        new = model.graph.graph.call_module(target, args)
    model.tag(new, chain[-1], str(layer.node.meta.get("kd_path", "")))
    chain[-1].replace_all_uses_with(new)
    for node in reversed(chain):
        model.graph.graph.erase_node(node)


def _place(layer: Layer) -> str:
    """What a new layer is named after: the path of the old one."""
    return str(layer.node.meta.get("kd_path", "")) or layer.node.name


def _added(node: fx.Node) -> fx.Node | None:
    """What is added to a value that is read for nothing else, in the same shape and type."""
    user = only_user(node)
    adds = user is not None and (
        (user.op == "call_function" and user.target in _ADDS)
        or (user.op == "call_method" and user.target == "add")
    )
    if user is None or not adds or len(user.args) != 2 or user.kwargs:
        return None
    first, second = user.args
    other = second if first is node else first
    value = node.meta["val"]
    if not isinstance(other, fx.Node) or other is node:
        return None
    theirs = other.meta.get("val")
    same = isinstance(theirs, Tensor) and (theirs.shape, theirs.dtype) == (value.shape, value.dtype)
    return other if same else None


def _activation(model: FrozenModel, node: fx.Node) -> str | None:
    """The activation that alone reads a value."""
    user = only_user(node)
    if user is None or not model.owns(user) or user.all_input_nodes != [node]:
        return None
    if user.op == "call_module":
        module = model.module(user)
        return _MODULES.get(type(module)) if module is not None else None
    if user.op == "call_method":
        return "relu" if user.target == "relu" else None
    return _FUNCTIONS.get(user.target)
