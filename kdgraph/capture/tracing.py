"""The fx rung: torch.fx symbolic tracing that opens only the modules with a tap inside."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdgraph.capture.record import Declined, Recorder, call_module, keep, positional_names
from kdgraph.capture.taps import TapPath
from kdgraph.capture.world import OperatorLog, no_custom_backward, replaced, untouched_random_state


def trace(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    taps: Mapping[str, TapPath],
    opens: Callable[[nn.Module], bool] | None = None,
) -> tuple[fx.Graph, dict[str, Tensor], Counter[str]]:
    """Traces ``module``, which must be a twin: its code may write to it.

    ``opens`` names modules to open beside those with a tap inside.

    Returns:
        The graph, whose output is a dictionary of the taps, each behind a ``keep`` node; the
        constants that the code made while it was traced, by the name the graph uses; and the
        operators that ran to make them.

    Raises:
        Declined: where the opened code cannot be traced.
    """
    tracer = _LazyTracer(module, inputs, taps, opens)
    ran: Counter[str] = Counter()
    with untouched_random_state() as changed:
        with OperatorLog(ran), no_custom_backward(), _no_autocast():
            graph = tracer.trace(module)
        if changed():
            # A number drawn while tracing would be a constant of the graph.
            raise Declined("opened code draws random numbers in Python")
    constants = {name: getattr(module, name) for name in tracer.fresh}
    if not all(isinstance(value, Tensor) for value in constants.values()):
        raise Declined("opened code makes constants that are not tensors")
    return graph, constants, ran


class _Proxy(fx.Proxy):
    """A proxy that keeps in-place operators in place.

    fx's own turns ``x += y`` into ``x + y``, which is wrong where another name holds x, and has
    no item assignment.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


def _in_place(function: Callable[..., Any]) -> Callable[[_Proxy, Any], Any]:
    def method(self: _Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
):
    setattr(_Proxy, f"__i{_name}__", _in_place(getattr(operator, f"i{_name}")))


@contextmanager
def _no_autocast() -> Iterator[None]:
    """Declines code that switches autocast: fx would leave the switch out of the graph."""

    def enter(self: Any) -> None:
        raise Declined("opened code switches autocast on or off")

    with replaced(torch.autocast, "__enter__", enter):
        yield


class _LazyTracer(fx.Tracer):
    proxy_buffer_attributes = True  # a buffer used in Python arithmetic stays a live buffer

    def __init__(
        self,
        root: nn.Module,
        inputs: Mapping[str, Tensor],
        taps: Mapping[str, TapPath],
        opens: Callable[[nn.Module], bool] | None,
    ) -> None:
        super().__init__()
        self.fresh: set[str] = set()
        self._opens = opens or (lambda module: False)
        self._grad = torch.is_grad_enabled()
        self._inputs = tuple(inputs)
        self._positional = positional_names(root, inputs)
        self._kept: dict[str, fx.Proxy] = {}
        self._taps = taps
        self._recorder = Recorder(root, taps, self._keep)
        tapped = {root.get_submodule(tap.path) for tap in taps.values()}
        self._opened = {id(root)} | {
            id(m) for m in root.modules() if any(p in tapped for p in m.modules() if p is not m)
        }

    def _keep(self, name: str, value: Any) -> None:
        self._kept[name] = self.create_proxy("call_function", keep, (value,), {}, name=name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        # Only what the caller feeds is a placeholder. Every other argument of forward is left
        # out of the call, so that it has the value of a plain call: its default.
        placeholders = [self.create_proxy("placeholder", n, (), {}) for n in self._inputs]

        def run(root: nn.Module, *values: fx.Proxy) -> dict[str, fx.Proxy]:
            call_module(root, dict(zip(self._inputs, values, strict=True)), self._positional)
            for name, tap in self._taps.items():
                if name not in self._kept:
                    raise Declined(f"the traced code never reaches tap {tap.text!r}")
            return {name: self._kept[name] for name in self._taps}

        return run, [self.root, *placeholders]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) not in self._opened and not self._opens(m)

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = self._recorder.enter(id(m), args, kwargs)
        result = super().call_module(m, forward, args, kwargs)
        self._recorder.leave(id(m), call, result)
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if torch.is_grad_enabled() != self._grad:
            raise Declined("opened code switches gradients on or off")
        node = super().create_node(*args, **kwargs)
        node.meta["kd_path"] = self.scope.module_path
        return node

    def get_fresh_qualname(self, prefix: str) -> str:
        name = super().get_fresh_qualname(prefix)
        self.fresh.add(name)
        return name
