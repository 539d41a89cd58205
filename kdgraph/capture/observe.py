"""Runs a graph once and notes the value of each node and what each node writes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict

from kdgraph.capture.record import tensors_in
from kdgraph.capture.world import World


@dataclass(frozen=True)
class RawCapture:
    """What a rung gives: a graph whose taps are behind ``keep`` nodes, not yet pure.

    Attributes:
        extras: tensors the graph names that the model does not have.
        modules: gives the modules the graph names that the model does not have, for a model.
        mode_dependent: whether the graph holds in one mode only.
    """

    graph: fx.Graph
    extras: dict[str, Tensor] = field(default_factory=dict)
    modules: Callable[[nn.Module], dict[str, nn.Module]] = lambda root: {}
    mode_dependent: bool = False


@dataclass
class Observed:
    """What one run of a graph showed.

    Attributes:
        values: each node's value, as it was at the end of the run.
        storages: each node to the storages its value lies in.
        written: each node to the storages of its arguments that it wrote to.
        operators: the operators that ran, with their sizes.
    """

    values: dict[fx.Node, Any] = field(default_factory=dict)
    storages: dict[fx.Node, frozenset[int]] = field(default_factory=dict)
    written: dict[fx.Node, frozenset[int]] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)


def observe(raw: RawCapture, world: World) -> Observed:
    """Runs the graph in ``world`` and sets ``meta["val"]`` of every node."""
    root, graph = world.model(), raw.graph
    made = raw.modules(root)
    for name, value in raw.extras.items():
        setattr(root, name, world.tensor(value))
    for name, module in made.items():
        setattr(root, name, module)
    seen = Observed()
    inputs = [world.inputs[str(n.target)] for n in graph.nodes if n.op == "placeholder"]
    with world.running() as seen.operators:
        _Observer(root, graph, seen).run(*inputs, enable_io_processing=False)
    for node, value in seen.values.items():
        node.meta["val"] = world.described(value)
    return seen


class _Observer(fx.Interpreter):
    def __init__(self, root: nn.Module, graph: fx.Graph, seen: Observed) -> None:
        # Values stay alive to the end, so that no storage number is used twice.
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False
        self._seen = seen

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        # fx keeps lists of arguments immutable; the code that runs has plain ones.
        return _plain(super().fetch_args_kwargs_from_env(n))

    def run_node(self, n: fx.Node) -> Any:
        given = [t for arg in n.all_input_nodes for t in tensors_in(self.env[arg])]
        before = [version_of(t) for t in given]
        result = super().run_node(n)
        changed = [t for t, v in zip(given, before, strict=True) if version_of(t) != v]
        if n.op == "call_module" and getattr(self.submodules[str(n.target)], "inplace", False):
            changed = given  # a dropout in place writes in train mode only
        if changed:
            self._seen.written[n] = frozenset(storage_of(t) for t in changed)
        self._seen.values[n] = result
        self._seen.storages[n] = frozenset(storage_of(t) for t in tensors_in(result))
        return result


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        if hasattr(value, "_fields"):
            return type(value)(*map(_plain, value))
        return tuple(map(_plain, value))
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, immutable_dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def version_of(value: Tensor) -> int:
    """How often the tensor, or any view of it, was written to."""
    return 0 if value.is_inference() else value._version


def storage_of(value: Tensor) -> int:
    """A number that all views of one tensor share."""
    if value.layout is not torch.strided:
        return id(value)
    return int(value.untyped_storage()._cdata)
