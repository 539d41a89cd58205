"""The sizes that modules know of themselves, made to agree with the tensors they hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from kdgraph.models.weights import load_weights, read_weights


def settle(module: nn.Module) -> None:
    """Sets the numbers of features or channels of a module to those of its tensors."""
    own: Any = module  # these are plain attributes, which torch declares constant
    if isinstance(module, nn.Linear):
        own.out_features, own.in_features = module.weight.shape
    elif isinstance(module, _ConvNd):
        rows, columns = module.weight.shape[:2]
        if is_depthwise(module):
            own.out_channels, own.groups = rows, rows // (own.out_channels // own.groups)
            own.in_channels = own.groups
        elif isinstance(module, _ConvTransposeNd):
            own.in_channels, own.out_channels = rows, columns * own.groups
        else:
            own.out_channels, own.in_channels = rows, columns * own.groups
    elif isinstance(module, _NormBase):
        tensor = module.weight if module.running_mean is None else module.running_mean
        own.num_features = len(tensor)
    elif isinstance(module, nn.PReLU):
        own.num_parameters = len(module.weight)


def is_depthwise(module: nn.Module) -> bool:
    """Whether each channel of a convolution has a filter of its own."""
    return (
        isinstance(module, _ConvNd)
        and not isinstance(module, _ConvTransposeNd)
        and 1 < module.groups == module.in_channels
    )


def fit_widths(model: nn.Module, weights: str | Path | Mapping[str, Tensor]) -> None:
    """Gives the tensors of ``model`` the shapes of those in ``weights``, and then their values.

    Args:
        model: a network as its source builds it; changed in place, narrower or wider.
        weights: a ``.safetensors`` or ``.pt`` file, or a state dict, of the same network with
            layers of other widths.

    Raises:
        ModelError: KD415 the file cannot be read; KD416 its names, or the number of dimensions
            of a tensor, are not those of the model.
        RuntimeError: the same of a state dict.
    """
    file = None if isinstance(weights, Mapping) else Path(weights)
    given = read_weights(file, model) if file else cast(Mapping[str, Tensor], weights)
    for path, module in model.named_modules():
        changed = False
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            wanted = given.get(f"{path}.{name}" if path else name)
            if tensor is None or wanted is None or wanted.shape == tensor.shape:
                continue
            if wanted.dim() == tensor.dim():  # anything else is told by the loading
                _reshape(module, name, tensor, wanted)
                changed = True
        if changed:
            settle(module)
    if file:
        load_weights(model, file)
    else:
        model.load_state_dict(given)


def _reshape(module: nn.Module, name: str, tensor: Tensor, like: Tensor) -> None:
    value = torch.empty(like.shape, dtype=tensor.dtype, device=tensor.device)
    if isinstance(tensor, nn.Parameter):
        value = nn.Parameter(value, requires_grad=tensor.requires_grad)
    setattr(module, name, value)
