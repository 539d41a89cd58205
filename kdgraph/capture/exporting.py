"""The export rung: ``torch.export`` of the model with its tapped values as the result.

Tensors of the graph are the model's own, by their names in it; dropout and batch norm act as in
the mode of the capture; the batch size stays free.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdgraph.capture.portable import make_portable
from kdgraph.capture.ports import install_ports
from kdgraph.capture.record import (
    Declined,
    Recorder,
    call_module,
    keep,
    one_line,
    positional_names,
)
from kdgraph.capture.taps import TapPath
from kdgraph.capture.twin import twin
from kdgraph.capture.world import example, no_custom_backward, quiet, untouched_random_state

_ROOT = "model"


class _Root(nn.Module):
    """What is exported: from the inputs, by position, to the tapped values."""

    def __init__(
        self, model: nn.Module, names: Collection[str], taps: Mapping[str, TapPath]
    ) -> None:
        super().__init__()
        self.model = model
        self._names, self._taps = tuple(names), tuple(taps)
        self._positional = positional_names(model, names)
        self._values: dict[str, Tensor] = {}
        self._recorder = Recorder(model, taps, self._keep)
        install_ports(model, taps, self._recorder)

    def _keep(self, name: str, value: Tensor) -> None:
        # A clone pins the value down: a later in-place write would replace it in the graph.
        self._values[name] = value.clone()

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        self._recorder.restart()
        call_module(self.model, dict(zip(self._names, values, strict=True)), self._positional)
        return tuple(self._values[name] for name in self._taps)


def export(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    taps: Mapping[str, TapPath],
    free: Mapping[str, Collection[int]],
) -> tuple[fx.Graph, dict[str, Tensor], dict[str, nn.Module]]:
    """Exports ``module`` as it stands, in train or eval mode.

    ``free`` gives the dimensions of each input, beside the batch, that may have any size.

    Returns:
        The graph, with a ``keep`` node for each tap, and the tensors and modules it needs that
        are not on ``module``.

    Raises:
        Declined: where export refuses, or would fix a size that has to stay free.
    """
    batches = [t.shape[0] for t in inputs.values() if t.dim()]
    batch = max([2, *batches[:1]])  # a size of 1 would be taken for a constant
    values = tuple(
        example(t, batch if t.shape[:1] == tuple(batches[:1]) else None) for t in inputs.values()
    )
    sizes = tuple(
        dict.fromkeys(
            [*([0] if t.shape[:1] == (batch,) else []), *free.get(name, ())],
            torch.export.Dim.DYNAMIC,
        )
        or None
        for name, t in zip(inputs, values, strict=True)
    )
    root = _Root(twin(module), inputs, taps)
    try:
        with quiet(), no_custom_backward(), untouched_random_state() as drawn:
            program = torch.export.export(root, values, dynamic_shapes=(sizes,), strict=False)
            exported = program.module(check_guards=False)
            if drawn():
                raise Declined("the model draws random numbers in Python")
    except Declined:
        raise
    except Exception as error:
        raise Declined(f"torch.export: {one_line(error)}") from error
    make_portable(exported, values[0].device)
    return _Rebuilt(module, exported, tuple(inputs), tuple(taps)).result()


class _Rebuilt:
    """Copies an exported graph under the names of the original module."""

    def __init__(
        self,
        module: nn.Module,
        exported: fx.GraphModule,
        names: tuple[str, ...],
        taps: tuple[str, ...],
    ) -> None:
        self._module, self._exported, self._taps = module, exported, taps
        self._names = list(names)
        self.graph = fx.Graph()
        self.extras: dict[str, Tensor] = {}
        self.modules: dict[str, nn.Module] = {}
        self._made: dict[fx.Node, fx.Node] = {}

    def result(self) -> tuple[fx.Graph, dict[str, Tensor], dict[str, nn.Module]]:
        nodes = list(self._exported.graph.nodes)
        names = dict(zip((n for n in nodes if n.op == "placeholder"), self._names, strict=True))
        for node, name in names.items():
            self._made[node] = self.graph.placeholder(name)
            self._made[node].meta["kd_path"] = ""
        for node in nodes:
            if node.op == "output":
                self._output(node)
            elif node.op == "get_attr":
                target = self._target(node)
                self._made[node] = self.graph.get_attr(target)
                self._made[node].meta["kd_path"] = target.rpartition(".")[0]
            elif node.op == "call_function":
                self._call(node)
        return self.graph, self.extras, self.modules

    def _call(self, node: fx.Node) -> None:
        args = fx.map_arg(node.args, lambda n: self._made[n])
        kwargs = fx.map_arg(node.kwargs, lambda n: self._made[n])
        target: Any = node.target
        new = self.graph.call_function(target, args, kwargs)
        stack = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())[-1][0]
        new.meta["kd_path"] = stack.removeprefix(_ROOT).removeprefix(".")
        self._made[node] = new

    def _target(self, node: fx.Node) -> str:
        name = str(node.target).removeprefix(f"{_ROOT}.")
        value: Any = operator.attrgetter(str(node.target))(self._exported)
        if isinstance(value, nn.Module):
            self.modules[f"kd_{name}"] = value
            return f"kd_{name}"
        try:
            own = operator.attrgetter(name)(self._module)
        except AttributeError:
            own = None
        if own is value:
            return name
        flat = f"kd_{name.replace('.', '_')}"
        self.extras[flat] = value
        return flat

    def _output(self, node: fx.Node) -> None:
        values: Any = node.args[0]
        kept = {}
        for name, value in zip(self._taps, values, strict=True):
            clone = self._made[value]
            clone.target, clone.args = keep, clone.args[:1]
            clone.kwargs = {}
            kept[name] = clone
        self.graph.output(kept)
