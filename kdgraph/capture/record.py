"""Picks the tapped values while a model runs, whatever runs it: a tracer, a port, a fake run."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdgraph.capture.taps import TapPath
from kdgraph.errors import CaptureError, near


class Recorder:
    """Knows which modules are tapped, counts their calls and keeps what the taps ask for.

    Args:
        root: the tree that will run; the taps' paths are looked up in it.
        taps: tap name to tap.
        keep: called with each tapped value at the moment that the tap names.
    """

    def __init__(
        self, root: nn.Module, taps: Mapping[str, TapPath], keep: Callable[[str, Any], None]
    ) -> None:
        self._keep = keep
        self._calls: Counter[int] = Counter()
        self._wanted: dict[int, list[tuple[str, TapPath]]] = {}
        self._open: set[int] = {id(root)}
        for name, tap in taps.items():
            self._wanted.setdefault(id(root.get_submodule(tap.path)), []).append((name, tap))
            parts = tap.path.split(".")
            self._open.update(
                id(root.get_submodule(".".join(parts[:cut]))) for cut in range(1, len(parts))
            )

    def opens(self, module: nn.Module) -> bool:
        """Whether a tap lies strictly inside ``module`` (the root counts as opened)."""
        return id(module) in self._open

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """Notes that ``module`` is called; gives the number of the call."""
        self._calls[id(module)] += 1
        call = self._calls[id(module)]
        for name, tap in self._wanted.get(id(module), ()):
            if tap.side == "in" and tap.call == call:
                given = [*args, *kwargs.values()]
                if tap.index >= len(given):
                    raise CaptureError.of(
                        "KD202", f"no tap {tap.text!r}: the call has {len(given)} arguments"
                    )
                self._keep(name, reach(given[tap.index], tap))
        return call

    def leave(self, module: nn.Module, call: int, result: Any) -> None:
        """Notes what call number ``call`` of ``module`` returned."""
        for name, tap in self._wanted.get(id(module), ()):
            if tap.side == "out" and tap.call == call:
                self._keep(name, reach(result, tap))

    def restart(self) -> None:
        """Counts calls from one again."""
        self._calls.clear()


def reach(value: Any, tap: TapPath) -> Any:
    """Follows the positions and keys of ``tap`` into ``value``.

    Raises:
        CaptureError: KD202 when a position or key is not there.
    """
    for step in tap.reach:
        if isinstance(value, fx.Proxy):
            value = value[step] if isinstance(step, int) else field(value, step)
            continue
        try:
            value = value[step] if isinstance(step, int) else field(value, step)
        except (KeyError, IndexError, AttributeError, TypeError):
            choices = _fields(value)
            hint = near(str(step), choices) or (f"it has {', '.join(choices)}" if choices else None)
            raise CaptureError.of(
                "KD202", f"no tap {tap.text!r}: {step!r} is not in a {type(value).__name__}",
                help=hint,
            ) from None
    return value


@fx.wrap
def field(value: Any, key: str) -> Any:
    """A named part of a result: a dictionary's entry, else an attribute."""
    return value[key] if isinstance(value, Mapping) else getattr(value, key)


def _fields(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [str(k) for k in value]
    if isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", None)
        return list(names) if names else [str(i) for i in range(len(value))]
    return []


def call_with(module: nn.Module, inputs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """How to call ``module`` with ``inputs``, which are keyed by argument name.

    Raises:
        CaptureError: KD203 when forward has no such argument.
    """
    parameters = inspect.signature(module.forward).parameters
    kinds = {p.kind for p in parameters.values()}
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, value in inputs.items():
        known = parameters.get(name)
        if known is None and inspect.Parameter.VAR_POSITIONAL in kinds:
            args.append(value)
        elif known is None and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise CaptureError.of(
                "KD203",
                f"{type(module).__name__}.forward has no argument {name!r}",
                help=near(name, parameters) or f"it has {', '.join(parameters)}",
            )
        elif known is not None and known.kind is inspect.Parameter.POSITIONAL_ONLY:
            args.append(value)
        else:
            kwargs[name] = value
    return args, kwargs


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in a result, in order; reaches into containers and dataclasses."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for item in value.values() for t in tensors_in(item)]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in tensors_in(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [t for key in value.__dataclass_fields__ for t in tensors_in(getattr(value, key))]
    return []


def keep(value: Tensor) -> Tensor:
    """Marks, in a graph, the moment at which a tap is read."""
    if not isinstance(value, torch.Tensor):
        raise CaptureError.of("KD403", f"a tap must be a tensor, not a {type(value).__name__}")
    return value
