"""Parts of a model that are frozen, and stay so whatever mode the model is put in.

A part is marked where it is frozen, so that ``unfreeze`` frees it again and nothing that somebody
else has frozen. A normalisation layer with running statistics gets a class that stays in eval mode,
also under ``train()`` of the model, and that copies of the model keep.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

_MARK = "kd_frozen"


def freeze_part(module: nn.Module) -> None:
    """Freezes the parameters that a module holds itself, and its running statistics."""
    trained = {n for n, p in module.named_parameters(recurse=False) if p.requires_grad}
    vars(module)[_MARK] = vars(module).get(_MARK, set()) | trained
    if _has_statistics(module) and not stands_still(module):
        kind: Any = type(module)
        module.__class__ = _still(kind)
        module.training = False
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad_(False)
        parameter.grad = None  # else momentum and weight decay would go on moving it


def unfreeze_part(module: nn.Module, training: bool) -> int:
    """Takes the mark off, if there is one.

    Args:
        module: is put into the mode of its model,
        training: which is this.

    Returns:
        How many parameters can be trained again.
    """
    held: set[str] = vars(module).pop(_MARK, set())
    if stands_still(module):
        module.__class__ = type(module).__mro__[2]
        module.train(training)
    # a layer that was quantised since holds its weight one level deeper
    own = {n: p for n, p in module.named_parameters() if n.startswith("parametrizations.")}
    found = {n.split(".")[1]: p for n, p in own.items()} | module._parameters
    freed = [p for n, p in found.items() if n in held and p is not None]
    for parameter in freed:
        parameter.requires_grad_(True)
    return sum(parameter.numel() for parameter in freed)


def is_frozen(module: nn.Module) -> bool:
    """Whether ``freeze_part`` holds a module."""
    return _MARK in vars(module)


def freeze_along(module: nn.Module, name: str, other: nn.Module, like: str) -> None:
    """Freezes a new parameter where that of another module is; both are freed by ``unfreeze``."""
    if like in vars(other).get(_MARK, ()):
        vars(module)[_MARK] = {name}
        module.get_parameter(name).requires_grad_(False)


def stands_still(module: nn.Module) -> bool:
    """Whether a module is in eval mode on purpose while its model is trained."""
    return isinstance(module, Still)


class Still:
    """Marks the classes of frozen normalisation layers."""


@functools.cache
def _still(base: Any) -> Any:
    """The class of a layer, but always in eval mode. Frames and pickles know it by its base."""

    def train(self: Any, mode: bool = True) -> Any:
        return base.train(self, False)

    def folded(self: Any) -> Any:
        self.__class__ = base
        del vars(self)[_MARK]
        return self

    def reduce(self: Any, protocol: Any) -> Any:
        return _anew, (base,), vars(self)

    members = {
        "train": train,
        "folded": folded,
        "__reduce_ex__": reduce,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
    }
    return type(base.__name__, (Still, base), members)


def _anew(base: Any) -> Any:
    kind = _still(base)
    return kind.__new__(kind)


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_mean", None), Tensor)
