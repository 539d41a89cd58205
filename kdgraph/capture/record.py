"""Picks the tapped values while a model runs, whatever runs it: a tracer, a port, a fake run."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any, Unpack, get_args, get_origin

from torch import Tensor, fx, nn

from kdgraph.capture.taps import TapPath
from kdgraph.errors import CaptureError, near


class Declined(Exception):
    """A rung cannot take this model; the message is the reason, on one line."""


class Recorder:
    """Knows which modules are tapped, counts their calls and hands on what the taps ask for.

    Modules are known by a key, their ``id`` in the tree that runs. Simple enough inside that
    ``torch.compile`` can follow it.

    Args:
        root: the tree that will run; the taps' paths are looked up in it.
        taps: tap name to tap.
        keep: called with each tapped value at the moment that the tap names.
    """

    def __init__(
        self, root: nn.Module, taps: Mapping[str, TapPath], keep: Callable[[str, Any], None]
    ) -> None:
        self.active = True
        self._keep = keep
        self._wanted: dict[int, list[tuple[str, TapPath]]] = {}
        for name, tap in taps.items():
            self._wanted.setdefault(id(root.get_submodule(tap.path)), []).append((name, tap))
        self.calls = dict.fromkeys(self._wanted, 0)

    def enter(self, key: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """Notes that a module is called; gives the number of the call, or 0 for any other."""
        if not self.active or key not in self._wanted:
            return 0
        self.calls[key] += 1
        call = self.calls[key]
        for name, tap in self._wanted[key]:
            if tap.side == "in" and tap.call == call:
                given = [*args, *kwargs.values()]
                if tap.index >= len(given):
                    raise CaptureError.of(
                        "KD202", f"no tap {tap.text!r}: the call has {len(given)} arguments"
                    )
                self._keep(name, reach(given[tap.index], tap))
        return call

    def leave(self, key: int, call: int, result: Any) -> None:
        """Notes what call number ``call`` of a module returned."""
        if call == 0:
            return
        for name, tap in self._wanted[key]:
            if tap.side == "out" and tap.call == call:
                self._keep(name, reach(result, tap))

    def restart(self) -> None:
        """Counts calls from one again."""
        for key in self.calls:
            self.calls[key] = 0


def reach(value: Any, tap: TapPath) -> Any:
    """Follows the positions and keys of ``tap`` into ``value``.

    Raises:
        CaptureError: KD202 when a position or key is not there.
    """
    for step in tap.reach:
        if isinstance(value, fx.Proxy):
            value = operator.getitem(value, step) if isinstance(step, int) else field(value, step)
        elif has(value, step):
            value = value[step] if isinstance(step, int) else _named(value, step)
        else:
            choices = _fields(value)
            raise CaptureError.of(
                "KD202",
                f"no tap {tap.text!r}: a {type(value).__name__} has no {step!r}",
                help=near(str(step), choices) or f"it has {', '.join(choices) or 'no parts'}",
            )
    return value


def has(value: Any, step: int | str) -> bool:
    """Whether ``value`` has a part at that position or of that name."""
    if isinstance(step, str):
        return step in value if isinstance(value, Mapping) else hasattr(value, step)
    if isinstance(value, Tensor):
        return value.dim() > 0 and -value.shape[0] <= step < value.shape[0]
    return hasattr(value, "__len__") and -len(value) <= step < len(value)


@fx.wrap
def field(value: Any, key: str) -> Any:
    """A named part of a result: a dictionary's entry, else an attribute."""
    return _named(value, key)


def _named(value: Any, key: str) -> Any:
    return value[key] if isinstance(value, Mapping) else getattr(value, key)


def _fields(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [str(k) for k in value]
    if isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", None)
        return list(names) if names else [str(i) for i in range(len(value))]
    return []


def positional_names(module: nn.Module, names: Collection[str]) -> frozenset[str]:
    """Which of the named inputs ``module`` takes by position; it takes all others by keyword.

    Raises:
        CaptureError: KD203 when forward has no argument of a name.
    """
    parameters = inspect.signature(module.forward).parameters
    kinds = {p.kind for p in parameters.values()}
    found = set()
    for name in names:
        known = parameters.get(name)
        if known is not None and known.kind not in _VARIABLE:
            if known.kind is inspect.Parameter.POSITIONAL_ONLY:
                found.add(name)
        elif inspect.Parameter.VAR_POSITIONAL in kinds:
            found.add(name)
        elif inspect.Parameter.VAR_KEYWORD not in kinds or _is_lost(module, name, parameters):
            named = [n for n, p in parameters.items() if p.kind not in _VARIABLE]
            raise CaptureError.of(
                "KD203",
                f"{type(module).__name__}.forward has no argument {name!r}",
                help=near(name, named) or f"it has {', '.join(named)}",
            )
    return frozenset(found)


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _is_lost(module: nn.Module, name: str, parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether ``**kwargs`` of a forward would take an argument that nothing then reads.

    Models of transformers take any name, and most declare which ones mean something. Of those that
    do not, a name that is all but one of their own is taken for that.
    """
    (more,) = [p for p in parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    if get_origin(more.annotation) is Unpack:
        return name not in getattr(get_args(more.annotation)[0], "__annotations__", (name,))
    theirs = type(module).__module__.startswith("transformers.")
    return theirs and bool(get_close_matches(name, parameters, 1, 0.9))


def call_module(module: nn.Module, inputs: Mapping[str, Any], positional: Collection[str]) -> Any:
    """Calls ``module`` with inputs by name."""
    args = [value for name, value in inputs.items() if name in positional]
    return module(*args, **{n: value for n, value in inputs.items() if n not in positional})


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
    """Marks, in a graph, the moment at which a tap is read; gone once the graph is pure."""
    return value


def one_line(error: BaseException | None) -> str:
    """The first telling line of an error, cut to a length that fits a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."
