"""Copies of a module tree that share its tensors, so that capture never touches the original.

Tracing runs the model's own Python code, and that code may write to the model: caches, counters,
lazily built tables. All of it runs on a twin.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode


def twin(module: nn.Module, tensor: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """A copy of the module tree, with every sharing inside it kept.

    Args:
        module: the tree to copy; nothing in it changes.
        tensor: what takes the place of each tensor; by default the tensor itself.
    """
    copied: nn.Module = _Copier(tensor or (lambda value: value)).copy(module)
    return copied


def shadow(module: nn.Module, inner: Collection[nn.Module]) -> dict[nn.Module, nn.Module]:
    """Copies ``module`` as far down as ``inner``; all the rest is the very original.

    A copy holds the same parameter and buffer dictionaries as its original, so that moving,
    converting or loading the original shows through.

    Returns:
        Original to copy, for every module that was copied.
    """
    goal, copies = set(inner), {module}

    def leads_there(current: nn.Module) -> bool:
        found = [leads_there(child) for child in current.children()]
        if current in goal or any(found):
            copies.add(current)
        return current in copies

    leads_there(module)
    copier = _Copier(lambda value: value, only=copies)
    return {original: copier.copy(original) for original in copies}


def fake_twin(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A twin whose tensors are fake: its forward computes shapes and costs no arithmetic."""
    return twin(module, lambda value: fake_like(value, mode))


def fake_like(value: Tensor, mode: FakeTensorMode) -> Tensor:
    """``value`` as a fake tensor of ``mode``; what has no device yet (meta) is put on the CPU."""
    if isinstance(value, FakeTensor) and value.fake_mode is mode:
        return value
    if not value.is_meta and not isinstance(value, FakeTensor):
        return mode.from_tensor(value)
    device = torch.device("cpu") if value.device.type == "meta" else value.device
    with mode:
        fake = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=device)
    if isinstance(value, nn.Parameter):
        return nn.Parameter(fake, requires_grad=value.requires_grad)
    return fake.requires_grad_(value.requires_grad)


_PLAIN = {bool, int, float, str, type(None), types.FunctionType, torch.dtype, torch.device}


State = dict[tuple[str, str], Any]


def state_of(module: nn.Module) -> State:
    """What a module's code may set and read again: numbers, words and tensors of its parts."""
    kinds = (bool, int, float, str, Tensor)
    return {
        (path, key): value
        for path, part in module.named_modules(remove_duplicate=False)
        for key, value in [*vars(part).items(), *part._buffers.items()]
        if key != "training" and isinstance(value, kinds)
    }


def written(module: nn.Module, before: State) -> str | None:
    """The first attribute that the module's code has set since ``before``, or None.

    A graph does not hold such a write: a counter or a running mean would stand still. What the
    code has made anew (a cache) is no state.
    """
    now = state_of(module)
    for (path, key), value in before.items():
        found = now.get((path, key))
        same = found is value if isinstance(value, Tensor) else found == value
        if not same:
            return f"{path}.{key}".lstrip(".")
    return None


class _Copier:
    """Copies modules and the plain containers in them; anything else is shared."""

    def __init__(
        self, tensor: Callable[[Tensor], Tensor], only: Collection[nn.Module] | None = None
    ) -> None:
        self._tensor = tensor
        self._only = only
        self._done: dict[int, Any] = {}
        self._originals: list[Any] = []  # keeps them alive: their ids are keys

    def copy(self, value: Any) -> Any:
        if type(value) in _PLAIN:
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        if isinstance(value, torch.jit.ScriptModule):
            return value  # lives in C++
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            return self._remember(value, self._tensor(value))
        if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
            return types.MethodType(value.__func__, self.copy(value.__self__))
        if type(value) is functools.partial:
            function, args, kwargs = self.copy((value.func, value.args, value.keywords))
            return functools.partial(function, *args, **kwargs)
        return self._container(value)

    def _module(self, module: nn.Module) -> nn.Module:
        if self._only is not None and module not in self._only:
            return module
        new: nn.Module = self._remember(module, type(module).__new__(type(module)))
        shared = () if self._only is None else ("_parameters", "_buffers")
        for key, value in module.__dict__.items():
            new.__dict__[key] = value if key in shared else self.copy(value)
        return new

    def _container(self, value: Any) -> Any:
        if isinstance(value, dict) and type(value).__module__ in ("builtins", "collections"):
            new = self._remember(value, value.copy())
            for key, item in value.items():
                new[key] = self.copy(item)
            return new
        if type(value) is list:
            new = self._remember(value, [])
            new.extend(self.copy(item) for item in value)
            return new
        if type(value) is tuple:
            return tuple(self.copy(item) for item in value)
        if type(value) is set:
            return set(value)
        return value

    def _remember(self, original: Any, new: Any) -> Any:
        self._done[id(original)] = new
        self._originals.append(original)
        return new
