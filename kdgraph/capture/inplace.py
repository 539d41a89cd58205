"""In-place operations and their out-of-place twins: ``relu_(x) -> relu(x)``.

Only operations whose twin computes the same numbers are listed, under autocast too (which
treats ``exp`` and ``exp_`` differently, so those are not here). Whatever is not listed is made
pure by a copy of what it writes to.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

_MODULES: dict[type[nn.Module], tuple[Callable[..., Any], tuple[str, ...]]] = {
    nn.ReLU: (functional.relu, ()),
    nn.ReLU6: (functional.relu6, ()),
    nn.LeakyReLU: (functional.leaky_relu, ("negative_slope",)),
    nn.ELU: (functional.elu, ("alpha",)),
    nn.CELU: (functional.celu, ("alpha",)),
    nn.SELU: (functional.selu, ()),
    nn.SiLU: (functional.silu, ()),
    nn.Mish: (functional.mish, ()),
    nn.Hardswish: (functional.hardswish, ()),
    nn.Hardsigmoid: (functional.hardsigmoid, ()),
    nn.Hardtanh: (functional.hardtanh, ("min_val", "max_val")),
    nn.Threshold: (functional.threshold, ("threshold", "value")),
}
_OPERATORS: dict[Callable[..., Any], Callable[..., Any]] = {
    getattr(operator, f"i{name}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv")
}
# fmt: off
_NAMES = frozenset((
    "abs", "add", "ceil", "celu", "clamp", "clamp_max", "clamp_min", "cos", "div", "elu",
    "floor", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "masked_fill", "mish",
    "mul", "neg", "relu", "relu6", "round", "selu", "sigmoid", "silu", "sin", "sqrt",
    "square", "sub", "tanh", "threshold", "tril", "triu",
))
# fmt: on
_PROMOTING = frozenset(("add", "sub", "mul", "div", "truediv"))


def out_of_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Turns ``node`` into its out-of-place twin; False, and no change, where it has none."""
    if node.op == "call_module":
        module = modules.get(str(node.target))
        return module is not None and _module(node, module)
    if node.op == "call_method":
        name = str(node.target)
        if name.endswith("_") and name[:-1] in _NAMES and hasattr(torch.Tensor, name[:-1]):
            node.target = name[:-1]
            return True
        return False
    return node.op == "call_function" and _function(node)


def _module(node: fx.Node, module: nn.Module) -> bool:
    if type(module) not in _MODULES or len(node.args) != 1 or node.kwargs:
        return False
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    function, names = _MODULES[type(module)]
    node.op, node.target = "call_function", function
    node.args = (node.args[0], *(getattr(module, name) for name in names))
    return True


def promotes(node: fx.Node) -> bool:
    """Whether an out-of-place twin may come out in a wider type than what it replaces.

    ``x += y`` keeps the type of x; ``x + y`` has the wider of the two, which autocast may make
    that of y.
    """
    name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
    return name in _PROMOTING and len(node.all_input_nodes) > 1


def _function(node: fx.Node) -> bool:
    target: Any = node.target
    if target in _OPERATORS:
        node.target = _OPERATORS[target]
        return True
    name = getattr(target, "__name__", "").split(".")[0]
    if isinstance(target, torch._ops.OpOverload):
        packet = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") else None
        overload = getattr(packet, target._overloadname, None) if name[:-1] in _NAMES else None
        if target.namespace != "aten" or overload is None:
            return False
        node.target = overload
        return True
    if name.endswith("_") and name[:-1] in _NAMES:
        twin = getattr(torch, name[:-1], None) or getattr(functional, name[:-1], None)
        if twin is not None:
            node.target = twin
        return twin is not None
    own = getattr(functional, name, None)
    return own is not None and own is target and _without_flag(node, own)


def _without_flag(node: fx.Node, target: Callable[..., Any]) -> bool:
    parameters = list(inspect.signature(target).parameters)
    if "inplace" not in parameters:
        return False
    at = parameters.index("inplace")
    node.args = tuple(False if i == at else arg for i, arg in enumerate(node.args))
    node.kwargs = {k: v for k, v in node.kwargs.items() if k != "inplace"}
    return True
