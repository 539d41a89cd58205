"""What a student gives, as plain containers of tensors and as tensors by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def plain(value: Any) -> Any:
    """A result without classes of any library: dicts, lists and tuples of tensors.

    What has named fields (a ``ModelOutput``, a dataclass) becomes a dict; what is no tensor is left
    out, and so is what then is empty. None where nothing is left.
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, Mapping | list | tuple) and hasattr(value, "__dataclass_fields__"):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        parts = {str(key): plain(part) for key, part in value.items()}
        return {key: part for key, part in parts.items() if part is not None} or None
    if isinstance(value, list | tuple):
        rest = [part for part in map(plain, value) if part is not None]
        return (tuple(rest) if isinstance(value, tuple) else rest) or None
    return None


def giving_plain(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward with the same arguments, whose result is ``plain``."""

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return plain(forward(*args, **kwargs))

    return wrapped


def by_name(value: Any, place: str = "") -> dict[str, Tensor]:
    """The tensors of a plain result by name, in order.

    A tensor alone is ``output``; of a dict each has its key, of others ``output.0``, and what lies
    deeper adds to that: ``hidden_states.2``.
    """
    if isinstance(value, Tensor):
        return {place or "output": value}
    if isinstance(value, Mapping):
        parts = [by_name(part, f"{place}.{key}" if place else key) for key, part in value.items()]
    else:
        place = place or "output"
        parts = [by_name(part, f"{place}.{i}") for i, part in enumerate(value or ())]
    return {key: tensor for part in parts for key, tensor in part.items()}
