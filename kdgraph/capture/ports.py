"""Ports: submodules that hand their value out while the model runs as it is, without hooks.

The modules on the way to a tap are replaced by copies that share every tensor with their
originals; the tapped ones are of a subclass whose ``forward`` also notes what went in and out.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdgraph.capture.observe import RawCapture
from kdgraph.capture.record import Recorder, call_module, keep, positional_names
from kdgraph.capture.taps import TapPath
from kdgraph.capture.twin import shadow

_TARGET = "kd_ports"


def install_ports(root: nn.Module, taps: Mapping[str, TapPath], recorder: Recorder) -> None:
    """Makes the tapped modules of ``root``, which must be a twin, tell ``recorder``."""
    for module in {root.get_submodule(tap.path) for tap in taps.values()}:
        make_port(module, recorder)


def make_port(module: nn.Module, recorder: Any, original: nn.Module | None = None) -> None:
    """Makes one module of a copy tell ``recorder``; with ``original``, by calling that."""
    vars(module)["_kd_key"] = id(module)
    vars(module)["_kd_recorder"] = recorder
    if original is not None:
        # Runs whole: the original's own call, so that whatever wraps it later still works.
        vars(module)["_kd_original"] = original
        vars(module).update(_forward_hooks={}, _forward_pre_hooks={})
    own = vars(module).pop("forward", None)  # some models set forward on the instance
    if own is not None and original is None:
        vars(module)["_kd_own_forward"] = own
    kind: Any = type(module)
    module.__class__ = _port_class(kind)


@functools.cache
def _port_class(base: Any) -> Any:
    @functools.wraps(base.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = self._kd_recorder.enter(self._kd_key, args, kwargs)
        if "_kd_original" in self.__dict__:
            result = self._kd_original(*args, **kwargs)
        elif "_kd_own_forward" in self.__dict__:
            result = self._kd_own_forward(*args, **kwargs)
        else:
            result = base.forward(self, *args, **kwargs)
        self._kd_recorder.leave(self._kd_key, call, result)
        return result

    members = {"forward": forward, "__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (base,), members)


class _Enough(BaseException):
    """Every tap has been read. Not an ``Exception``: a model may catch those."""


class PortModel(nn.Module):
    """The whole of a model, or all of it up to its last tap, with the tapped values as its result.

    It owns no parameters: those belong to the original, which it follows in device, dtype,
    mode and weights. Calling it is calling the original.

    Args:
        module: the original.
        names: argument names of its forward, in the order of the call.
        taps: tap name to tap; the result is a tuple in this order.
        copied: names of the taps whose value is changed in place later in the forward.
        stops: break the forward off once every tap has been read.
        unused: submodules of the original that never run, so that they are not moved.
    """

    original: nn.Module
    unused: frozenset[nn.Module]
    _root: nn.Module
    _pairs: list[tuple[nn.Module, nn.Module]]
    _recorder: Recorder

    def __init__(
        self,
        module: nn.Module,
        names: Collection[str],
        taps: Mapping[str, TapPath],
        copied: Collection[str] = (),
        *,
        stops: bool = False,
        unused: Collection[nn.Module] = (),
    ) -> None:
        super().__init__()
        tapped = {module.get_submodule(tap.path) for tap in taps.values()}
        pairs = shadow(module, tapped)
        root = pairs[module]
        self._values: dict[str, Tensor] = {}
        self.names, self.taps, self.stops = tuple(names), dict(taps), stops
        self.copied = frozenset(copied)
        self._positional = positional_names(module, names)
        recorder = Recorder(root, taps, self._keep)
        for original in tapped:
            whole = original is not module and not any(
                child in pairs for child in original.modules() if child is not original
            )
            make_port(pairs[original], recorder, original if whole else None)
        # Not registered: the caller owns the original, and this must not own it twice.
        vars(self).update(original=module, unused=frozenset(unused), _root=root, _recorder=recorder)
        vars(self)["_pairs"] = list(pairs.items())

    def called(self) -> Iterator[nn.Module]:
        """The modules that run, originals wherever they are called themselves."""
        for module in self._root.modules():
            yield from vars(module).get("_kd_original", module).modules()

    def _keep(self, name: str, value: Tensor) -> None:
        last = self.stops and len(self._values) + 1 == len(self.taps)
        self._values[name] = value.clone() if name in self.copied and not last else value
        if last:
            raise _Enough

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Runs the model on its inputs, in the order of ``names``; gives the tapped values."""
        for original, copy in self._pairs:
            copy.training = original.training
        self._values.clear()
        self._recorder.restart()
        self._recorder.active = True  # but not while checkpointing runs a part again
        if self.stops:
            self._run_until_enough(values)
        else:
            self._run(values)
        self._recorder.active = False
        for name, tap in self.taps.items():
            if name not in self._values:  # layer drop, for one, leaves layers out at random
                raise RuntimeError(f"tap {tap.text!r} was not reached in this forward")
        found = tuple(self._values[name] for name in self.taps)
        self._values.clear()
        return found

    def _run(self, values: tuple[Tensor, ...]) -> None:
        call_module(self._root, dict(zip(self.names, values, strict=True)), self._positional)

    def _run_until_enough(self, values: tuple[Tensor, ...]) -> None:
        # The code that is broken off cannot put back the gradient mode, should it have set one.
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            try:  # noqa: SIM105 - torch.compile follows this, not contextlib
                self._run(values)
            except _Enough:
                pass

    def running(self) -> Iterator[tuple[str, nn.Module]]:
        """What runs in the place of the original and its submodules, by path."""
        yield from self._root.named_modules(remove_duplicate=False)

    def copies(self) -> Iterator[nn.Module]:
        """Those of them that are copies: the modules on the way to a tap."""
        yield from (copy for _, copy in self._pairs)

    def needed(self) -> Iterator[nn.Module]:
        """The modules of the original that hold what runs, each without its submodules."""
        yield from _without(self.original, self.unused)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PortModel:
        """Moves and casts the original along, save for what never runs."""
        _move(self.original, fn, self.unused)
        return self


def _without(module: nn.Module, unused: Collection[nn.Module]) -> Iterator[nn.Module]:
    if module not in unused:
        yield module
        for child in module.children():
            yield from _without(child, unused)


def _move(module: nn.Module, fn: Callable[[Tensor], Tensor], unused: Collection[nn.Module]) -> None:
    if module in unused:
        return
    move: Any = module._apply
    if not any(part in unused for part in module.modules()):
        move(fn)
        return
    for child in module.children():
        _move(child, fn, unused)
    move(fn, recurse=False)


def ports(
    names: tuple[str, ...], taps: Mapping[str, TapPath], copied: Collection[str]
) -> RawCapture:
    """The ports rung: a graph of a single call, to the model as a whole."""
    graph = fx.Graph()
    inputs = tuple(graph.placeholder(name) for name in names)
    result = graph.call_module(_TARGET, inputs)
    graph.output(
        {
            name: graph.call_function(keep, (graph.call_function(operator.getitem, (result, i)),))
            for i, name in enumerate(taps)
        }
    )
    for node in graph.nodes:
        node.meta["kd_path"] = ""
    return RawCapture(graph, {}, lambda root: {_TARGET: PortModel(root, names, taps, copied)})
