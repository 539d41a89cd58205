"""From a trained model with what actions and ``lora`` put into it to the plain model it equals."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from kdgraph.models._lora import is_adapted, merged


def fold(model: nn.Module) -> nn.Module:
    """A copy without anything that an action put in; in eval mode it gives the same.

    Every module that has a method ``folded`` is replaced by what that gives, innermost first, and
    parameters computed by modules that have ``bakes = True`` (fake quantisation) hold what was
    computed. Low-rank adapters are merged. Parametrisations of others stay. Tied parameters stay
    tied.

    Args:
        model: nothing in it changes.
    """
    copied = copy.deepcopy(model)
    done: dict[int, nn.Module] = {}
    baked: dict[int, nn.Parameter] = {}
    kept: list[nn.Module] = []  # alive, since their ids are keys

    def plain(module: nn.Module) -> nn.Module:
        if id(module) in done:
            return done[id(module)]
        kept.append(module)
        done[id(module)] = module  # a module that holds itself comes back here
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = plain(child)
        if _is_baked(module):
            _bake(module, baked)
        result: Any = module
        if is_adapted(module):
            result = merged(module)
        elif _folds(module):
            result = result.folded().train(module.training)
        done[id(module)] = result
        return done[id(module)]

    return plain(copied)


def without_actions(model: nn.Module) -> nn.Module:
    """The very model where no action has put anything in, else ``fold`` of it."""
    changed = any(_folds(m) or _is_baked(m) or is_adapted(m) for m in model.modules())
    return fold(model) if changed else model


def _folds(module: nn.Module) -> bool:
    return callable(getattr(type(module), "folded", None))


def _lists(module: nn.Module) -> dict[str, ParametrizationList]:
    found: Any = module._modules.get("parametrizations") if is_parametrized(module) else None
    return dict(found.items()) if found is not None else {}


def _is_baked(module: nn.Module) -> bool:
    """Whether kdgraph computes parameters of the module, and nobody else does."""
    parts = [part for found in _lists(module).values() for part in found]
    return bool(parts) and all(getattr(part, "bakes", False) for part in parts)


def _bake(module: nn.Module, baked: dict[int, nn.Parameter]) -> None:
    """Gives a parametrised module its class and parameters back, with the computed values.

    ``parametrize.remove_parametrizations`` would take the property off a class that copies of the
    module share.
    """
    values: dict[str, Tensor] = {}
    with torch.no_grad():
        for name in _lists(module):
            values[name] = getattr(module, name).clone()
    originals = {name: found.original for name, found in _lists(module).items()}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        old = originals[name]
        new = baked.get(id(old))
        if new is None or not torch.equal(new, value):
            new = nn.Parameter(value, requires_grad=old.requires_grad)
            baked[id(old)] = new
        module.register_parameter(name, new)
