"""Copies of what a frozen model is made of, in another type: the caller's own stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from kdgraph.capture.twin import twin


class _KeepsType(nn.Module):
    """Follows a move to another device, never a cast: its type was chosen in the spec."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _KeepsType:
        def place(value: Tensor) -> torch.device:
            return fn(torch.empty(0, device=value.device)).device

        # a cast alone touches nothing: quantised tensors cannot be replaced once compiled
        if any(place(t) != t.device for t in tensors_of(self)):
            super()._apply(lambda t: t.to(place(t)), recurse)  # type: ignore[no-untyped-call]  # untyped there
        return self


class Held(_KeepsType):
    """A tensor of a frozen model; ``forward()`` gives it."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value if isinstance(value, nn.Parameter) else frozen(value)

    def forward(self) -> Tensor:
        return self.value


class Whole(_KeepsType):
    """A module of a frozen model, which computes in the type of its own weights.

    Autocast is switched off inside, and the floating tensors that come in are brought to
    ``dtype``: the model's precision is what the spec says, whatever that of the training step.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        device = next((v.device.type for v in given if isinstance(v, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return self.module(
                *[_in_type(v, self.dtype) for v in args],
                **{k: _in_type(v, self.dtype) for k, v in kwargs.items()},
            )


def _in_type(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in (list, tuple):
        return type(value)([_in_type(v, dtype) for v in value])
    return value


class Copies:
    """Makes copies whose floating parameters and buffers are cast; what is shared stays shared.

    Args:
        dtype: the new type; None leaves the type, so that the copy holds the very tensors.
        skeleton: the values mean nothing and are not looked at.
    """

    def __init__(self, dtype: torch.dtype | None, skeleton: bool) -> None:
        self._dtype, self._skeleton = dtype, skeleton
        self._made: dict[int, tuple[Tensor, Tensor]] = {}  # the original lives as long as its id

    def module(self, module: nn.Module) -> nn.Module:
        """A copy of a whole module; tensors that are not registered are shared with it."""
        own = {id(t) for t in tensors_of(module)}
        return twin(module, lambda value: self.tensor(value) if id(value) in own else value)

    def tensor(self, value: Tensor) -> Tensor:
        """A copy of one parameter or buffer, the same for each time it is asked for."""
        if self._dtype is None or not value.is_floating_point():
            return value
        if id(value) not in self._made:
            self._made[id(value)] = (value, self._cast(value, self._dtype))
        return self._made[id(value)][1]

    def _cast(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        if self._skeleton:
            new = torch.empty_like(value, dtype=dtype, requires_grad=False)
        else:
            new = value.detach().to(dtype, copy=True)
            # the lowest number of float32 stands for "masked"; infinities are another matter
            over = new.isinf() & value.detach().isfinite()
            if bool(over.any()):
                most = torch.finfo(dtype).max
                new = torch.where(over, value.detach().clamp(-most, most).to(dtype), new)
        return frozen(new) if isinstance(value, nn.Parameter) else new


def frozen(value: Tensor) -> nn.Parameter:
    """A parameter that is never trained."""
    return nn.Parameter(value.detach(), requires_grad=False)


def size(tensors: list[Tensor]) -> int:
    """Bytes of tensors, each counted once, those inside a quantised one by what it holds."""
    return sum(_bytes(t) for t in {id(t): t for t in tensors}.values())


def _bytes(value: Any) -> int:
    if is_traceable_wrapper_subclass(value):
        names, _ = value.__tensor_flatten__()
        return sum(_bytes(getattr(value, name)) for name in names)
    return int(value.numel() * value.element_size())


def tensors_of(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a module."""
    return [*module.parameters(), *module.buffers()]
