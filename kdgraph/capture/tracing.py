"""The fx rung: torch.fx symbolic tracing that opens only the modules with a tap inside."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdgraph.capture.record import Recorder, call_with, keep
from kdgraph.capture.taps import TapPath


class Declined(Exception):
    """A rung cannot take this model; the message is the reason, on one line."""


def trace(
    module: nn.Module, inputs: Mapping[str, Tensor], taps: Mapping[str, TapPath]
) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Traces ``module``, which must be a twin: its code may write to it.

    Returns:
        The graph, whose output is a dictionary of the taps, each behind a ``keep`` node, and
        the constants that the code made while it was traced, by the name the graph uses.

    Raises:
        Declined: where the opened code cannot be traced.
    """
    tracer = _LazyTracer(module, inputs, taps)
    with untouched_random_state() as changed:
        graph = tracer.trace(module)
        if changed():
            # A number drawn while tracing would be a constant of the graph.
            raise Declined("opened code draws random numbers in Python")
    constants = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and name in tracer.fresh
    }
    return graph, constants


class _LazyTracer(fx.Tracer):
    proxy_buffer_attributes = True  # a buffer used in Python arithmetic stays a live buffer

    def __init__(
        self, root: nn.Module, inputs: Mapping[str, Tensor], taps: Mapping[str, TapPath]
    ) -> None:
        super().__init__()
        self.fresh: set[str] = set()
        self._inputs = inputs
        self._kept: dict[str, fx.Proxy] = {}
        self._taps = taps
        self._recorder = Recorder(root, taps, self._keep)

    def _keep(self, name: str, value: Any) -> None:
        self._kept[name] = self.create_proxy("call_function", keep, (value,), {}, name=name)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        # Only what the caller feeds is a placeholder. Every other argument of forward is left
        # out of the call, so that it has the value of a plain call: its default.
        placeholders = [self.create_proxy("placeholder", n, (), {}) for n in self._inputs]

        def run(root: nn.Module, *values: fx.Proxy) -> dict[str, fx.Proxy]:
            args, kwargs = call_with(root, dict(zip(self._inputs, values, strict=True)))
            root(*args, **kwargs)
            missing = [n for n in self._taps if n not in self._kept]
            if missing:
                raise Declined(f"the traced code never calls tap {self._taps[missing[0]].text!r}")
            return {name: self._kept[name] for name in self._taps}

        return run, [self.root, *placeholders]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self._recorder.opens(m)

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = self._recorder.enter(m, args, kwargs)
        result = super().call_module(m, forward, args, kwargs)
        self._recorder.leave(m, call, result)
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["kd_path"] = self.scope.module_path
        return node

    def get_fresh_qualname(self, prefix: str) -> str:
        name = super().get_fresh_qualname(prefix)
        self.fresh.add(name)
        return name


@contextmanager
def untouched_random_state() -> Iterator[Any]:
    """Leaves every CPU random generator as it was; yields a test for whether it was used."""
    before = torch.get_rng_state(), random.getstate(), _numpy_state()

    def changed() -> bool:
        return (
            not torch.equal(before[0], torch.get_rng_state())
            or before[1] != random.getstate()
            or before[2] != _numpy_state()
        )

    try:
        yield changed
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        if before[2] is not None:
            import numpy

            numpy.random.set_state(before[2])


def _numpy_state() -> Any:
    import sys

    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    name, keys, *rest = numpy.random.get_state()
    return (name, tuple(keys), *rest)
