"""Linear layers that work on channels alone: two in a row are one, and one goes into the next."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

Layer = nn.Conv2d | nn.Linear


def is_affine(module: nn.Module) -> bool:
    """Whether a module is a linear layer, a 1x1 convolution, or does nothing."""
    if type(module) is nn.Conv2d:
        plain = module.stride == (1, 1) and module.groups == 1 and module.padding == (0, 0)
        return module.kernel_size == (1, 1) and plain
    return type(module) in (nn.Identity, nn.Linear)


def does_nothing(module: nn.Module) -> bool:
    """Whether a module is the identity."""
    return type(module) is nn.Identity


def merged(first: nn.Module, second: nn.Module) -> nn.Module:
    """``W = W_2 W_1``, ``b = W_2 b_1 + b_2``: two affine modules as one; a linear layer if one is.

    A convolution may be merged with a linear layer behind it where nothing but means over the
    positions stand between the two.
    """
    if does_nothing(first) or does_nothing(second):
        return second if does_nothing(first) else first
    assert isinstance(first, Layer)
    assert isinstance(second, Layer)
    weight, bias = _behind(_matrix(second), second.bias, first)
    linear = isinstance(first, nn.Linear) or isinstance(second, nn.Linear)
    outputs, inputs = weight.shape
    made: Layer = nn.Linear(inputs, outputs) if linear else nn.Conv2d(inputs, outputs, 1)
    _set(made, weight if linear else weight[:, :, None, None], bias, like=second)
    return made


@torch.no_grad()
def absorb(module: nn.Module, segment: nn.Module) -> bool:
    """Puts an affine module into the first layer of the segment behind it, in place.

    Returns:
        Whether that could be done exactly. A bias cannot go into a convolution that pads with
        zeros, as it would be missing from the border.
    """
    layer = _first(segment)
    if not isinstance(module, Layer) or not _is_plain(layer):
        return False
    if isinstance(layer, nn.Linear):
        _set(layer, *_behind(layer.weight, layer.bias, module), like=layer)
        layer.in_features = layer.weight.shape[1]
        return True
    pads = layer.padding not in ((0, 0), "valid")
    if isinstance(module, nn.Linear) or (pads and module.bias is not None and module.bias.any()):
        return False
    whole = layer.weight.double()
    kernel = torch.einsum("okhw,ki->oihw", whole, _matrix(module).double())
    _, bias = _behind(whole.sum((2, 3)), layer.bias, module)
    _set(layer, kernel, layer.bias if pads else bias, like=layer)
    layer.in_channels = kernel.shape[1]
    return True


def _first(segment: nn.Module) -> nn.Module:
    """The layer that reads what a segment reads, as far as that can be told."""
    while type(segment).forward is nn.Sequential.forward and segment._modules:
        segment = next(iter(segment.children()))
    return segment


def _is_plain(layer: nn.Module) -> TypeGuard[Layer]:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1
    return type(layer) is nn.Linear


def _matrix(layer: Layer) -> Tensor:
    """[outputs, inputs] of a linear layer or a 1x1 convolution."""
    return layer.weight.flatten(1)


def _behind(weight: Tensor, bias: Tensor | None, first: Layer) -> tuple[Tensor, Tensor | None]:
    """What ``weight`` and ``bias`` are behind ``first``, as one; in float64."""
    outer, inner = weight.double(), _matrix(first).double()
    if first.bias is not None:
        carried = outer @ first.bias.double()
        bias = carried if bias is None else carried + bias.double()
    return outer @ inner, bias


def _set(layer: Layer, weight: Tensor, bias: Tensor | None, *, like: Layer) -> None:
    learns = like.weight.requires_grad
    layer.weight = nn.Parameter(weight.detach().to(like.weight), learns)
    own = None if bias is None else nn.Parameter(bias.detach().to(like.weight), learns)
    layer.register_parameter("bias", own)
