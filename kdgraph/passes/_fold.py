"""A batch norm in eval mode is a scale and a shift: ``bn(conv(x)) -> conv'(x)``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from kdgraph.passes._frozen import FrozenModel


@dataclass(frozen=True)
class Layer:
    """A convolution or a linear layer in the graph.

    Attributes:
        node: where it is called.
        x: what it reads.
        module: what it is apart from its numbers.
        weight: [D, C / groups, *kernel], [C, D / groups, *kernel] transposed, [D, C] linear.
        bias: [D].
        made_of: the tensors that it was made of, by target.
    """

    node: fx.Node
    x: fx.Node
    module: nn.Module
    weight: Tensor
    bias: Tensor | None
    made_of: tuple[tuple[str, Tensor], ...]

    def build(self) -> nn.Module:
        """A module of the same kind with these numbers, which no optimiser will see."""
        new = copy.copy(self.module)
        new.__dict__ = {**self.module.__dict__, "_buffers": {}, "training": False}
        frozen = (None if t is None else nn.Parameter(t, False) for t in (self.weight, self.bias))
        new._parameters = dict(zip(("weight", "bias"), frozen, strict=True))
        return new


@dataclass(frozen=True)
class Norm:
    """A batch norm in eval mode: mean and var [C], weight and bias [C] or None."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    made_of: tuple[tuple[str, Tensor], ...]


_CONVS: dict[str, type[nn.Module]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
    "conv_transpose1d": nn.ConvTranspose1d,
    "conv_transpose2d": nn.ConvTranspose2d,
    "conv_transpose3d": nn.ConvTranspose3d,
}
_KINDS = {kind.forward: kind for kind in (*_CONVS.values(), nn.Linear)}  # type: ignore[attr-defined]
# classes with a forward of their own that are a convolution or a batch norm all the same
LIKE_CONV = ("Conv2dSame",)
LIKE_NORM = ("FrozenBatchNorm2d",)
_FORWARD = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_BACK = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_ATEN_NORM = ("input", "weight", "bias", "running_mean", "running_var", "training", "", "eps")


def layer_of(model: FrozenModel, node: fx.Node) -> Layer | None:
    """The layer that a node of the model calls, or None."""
    if module := model.module(node):
        known = type(module).forward in _KINDS or type(module).__name__ in LIKE_CONV
        if not known or not _bare(module) or len(node.args) != 1 or node.kwargs:
            return None
        own: Any = module
        targets = (f"{node.target}.weight", f"{node.target}.bias")
        return _layer(node, module, own.weight, own.bias, *targets)
    if node.op != "call_function" or not model.owns(node):
        return None
    name = _name(node)
    if name == "linear":
        given = _given(node, _FORWARD[:3])
    elif name in _CONVS:
        given = _given(node, _BACK if "transpose" in name else _FORWARD)
    else:
        return None
    found, bias = model.tensor(given.get("weight")), model.tensor(given.get("bias"))
    if found is None or (given.get("bias") is not None and bias is None):
        return None
    targets = (
        str(getattr(given.get("weight"), "target", "")),
        str(getattr(given.get("bias"), "target", "")),
    )
    return _layer(node, _module(name, given, found), found, bias, *targets)


def _layer(
    node: fx.Node, module: nn.Module, weight: Tensor, bias: Tensor | None, *targets: str
) -> Layer | None:
    x = node.args[0] if node.args else node.kwargs["input"]
    made_of = tuple((t, v) for t, v in zip(targets, (weight, bias), strict=True) if v is not None)
    if not isinstance(x, fx.Node) or not all(_plain(v) for _, v in made_of):
        return None
    return Layer(node, x, module, weight, bias, made_of)


def _module(name: str, given: dict[str, Any], weight: Tensor) -> nn.Module:
    """The module of a layer that is called as a function."""
    if name == "linear":
        return nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    groups, transposed = given.get("groups", 1), "transpose" in name
    inside, out = weight.shape[1] * groups, weight.shape[0]
    channels = (out, inside) if transposed else (inside, out)
    named = {
        k: v for k in ("stride", "padding", "dilation", "output_padding") if (v := given.get(k))
    }
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in named.items()}
    kernel = tuple(weight.shape[2:])
    return _CONVS[name](*channels, kernel, groups=groups, device="meta", **plain)


def norm_of(model: FrozenModel, node: fx.Node) -> Norm | None:
    """The batch norm that a node of the model calls, where its numbers stand still."""
    if module := model.module(node):
        own = type(module).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
        known = own or type(module).__name__ in LIKE_NORM
        if not known or not _bare(module) or (own and module.training):
            return None
        tensors = {k: getattr(module, k) for k in _NORM[1:5]}
        return _norm(tensors, {k: f"{node.target}.{k}" for k in tensors}, module.eps)
    if node.op != "call_function" or not model.owns(node) or _name(node) != "batch_norm":
        return None
    given = _given(node, _NORM if node.target is functional.batch_norm else _ATEN_NORM)
    if given.get("training", False):
        return None
    nodes = {k: given.get(k) for k in _NORM[1:5]}
    tensors = {k: model.tensor(v) for k, v in nodes.items()}
    if any(tensors[k] is None and v is not None for k, v in nodes.items()):
        return None
    targets = {k: str(getattr(v, "target", "")) for k, v in nodes.items()}
    return _norm(tensors, targets, given.get("eps", 1e-5))


def _norm(tensors: dict[str, Tensor | None], targets: dict[str, str], eps: Any) -> Norm | None:
    mean, var = tensors["running_mean"], tensors["running_var"]
    made_of = tuple((targets[k], v) for k, v in tensors.items() if v is not None)
    if mean is None or var is None or not all(_plain(v) for _, v in made_of):
        return None
    return Norm(mean, var, tensors["weight"], tensors["bias"], float(eps), made_of)


def folded(layer: Layer, norm: Norm) -> Layer | None:
    """The layer with the batch norm in it, computed in float64 and rounded once."""
    value = layer.node.meta["val"]
    transposed = isinstance(layer.module, _ConvTransposeNd)
    groups = int(getattr(layer.module, "groups", 1))
    weight, out = layer.weight, layer.weight.shape[1] * groups if transposed else len(layer.weight)
    features = weight.dim() if weight.dim() > 2 else 2  # a linear layer on [B, C] only
    if value.dim() != features or norm.mean.numel() != out:
        return None
    mean, var = _exact(norm.mean), _exact(norm.var)
    scale = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _exact(norm.weight)
    shift = -mean * scale if norm.bias is None else _exact(norm.bias) - mean * scale
    if layer.bias is not None:
        shift = shift + _exact(layer.bias) * scale
    if transposed:  # [groups * C, D, ...]: a channel of the result is (group, D)
        inner = _exact(weight).view(groups, -1, *weight.shape[1:])
        wide = (inner * scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)
    else:
        wide = _exact(weight) * scale.view(-1, *[1] * (weight.dim() - 1))
    rounded = wide.to(weight.device, weight.dtype), shift.to(weight.device, weight.dtype)
    made_of = (*layer.made_of, *norm.made_of)
    return replace(layer, weight=rounded[0], bias=rounded[1], made_of=made_of)


def _exact(value: Tensor) -> Tensor:
    wide = value.detach()
    return (wide.cpu() if wide.device.type == "mps" else wide).double()  # mps has no float64


def _plain(value: Tensor) -> bool:
    """Whether a tensor holds floating numbers as they are: not quantised, nor spread over ranks."""
    return type(value) in (Tensor, nn.Parameter) and value.is_floating_point()


def _bare(module: nn.Module) -> bool:
    """Whether calling a module is calling its forward on its very parameters."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return not hooks and "forward" not in vars(module) and not hasattr(module, "parametrizations")


def _name(node: fx.Node) -> str:
    target: Callable[..., Any] = node.target  # type: ignore[assignment]
    torch_own = str(getattr(target, "__module__", "")).startswith("torch")
    known = torch_own or getattr(torch, getattr(target, "__name__", ""), None) is target
    return getattr(target, "__name__", "").split(".")[0] if known else ""


def _given(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of a call by name; those left out are left out."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}
