"""Building a module without paying for its initial values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from kdgraph.errors import ModelError

# Far more than any model has: what a spec asks for by mistake, or to harm, comes to an end.
_MODULES, _CALLS = 100_000, 1_000_000

# What initialisers do to a parameter in place; each only changes its values.
_FILLS = {
    *("normal_", "uniform_", "kaiming_uniform_", "trunc_normal_", "constant_", "fill_", "zero_"),
    *("copy_", "erfinv_", "mul_", "div_", "add_", "sub_", "clamp_"),
}


class NoInit(TorchFunctionMode):
    """While active, parameters keep the memory they were allocated with, whatever that holds.

    Shapes, dtypes, tied parameters and buffers are the real ones, unlike under the meta device,
    whose buffers would have to be made up and whose tied parameters come apart when moved.
    Memory that is never written is never really taken, so a large model costs next to nothing.

    Raises:
        ModelError: KD413 for more than 100,000 modules or a million calls of torch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._modules, self._calls = 0, 0

    def __enter__(self) -> Self:
        self._hook = register_module_module_registration_hook(self._count)
        super().__enter__()  # type: ignore[no-untyped-call]  # untyped there
        return self

    def __exit__(self, *error: Any) -> None:
        self._hook.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # untyped there

    def _count(self, *_: object) -> None:
        self._modules += 1
        if self._modules > _MODULES:
            raise ModelError.of("KD413", f"it would have more than {_MODULES:,} modules")

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self._calls += 1
        if self._calls > _CALLS:
            raise ModelError.of("KD413", f"building it takes more than {_CALLS:,} calls of torch")
        target = args[0] if args else kwargs.get("tensor")
        if isinstance(target, nn.Parameter) or _is_slice(target):
            if getattr(func, "__name__", "") in _FILLS:
                return target
            # Initialisers that sample again until all values are in range skip meta tensors;
            # on memory that nobody filled they would sample for long.
            if func == torch.Tensor.is_meta.__get__:  # type: ignore[attr-defined]
                return True
        return func(*args, **kwargs)


def _is_slice(target: object) -> bool:
    """Whether ``target`` is a view of a parameter, as initialisers of fused layers take."""
    return isinstance(target, torch.Tensor) and isinstance(target._base, nn.Parameter)
