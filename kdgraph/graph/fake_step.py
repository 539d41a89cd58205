"""One training step on fake tensors: all its operators, none of its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from kdgraph.graph.distill_graph import DistillGraph
from kdgraph.graph.meter import Held, Meter
from kdgraph.graph.resident import modules_below, resident


class CannotRun(Exception):
    """The step does not run on fake tensors; the message is the reason, on one line."""


@dataclass
class FakeStep:
    """What one step did.

    Attributes:
        meter: what was counted, and every piece of memory.
        forward_end: the time on the meter's clock when the loss was there.
        handed_out: memory of the step's outputs, which lives on through the backward.
        kept: memory that is kept for the backward.
        gradients: memory of the gradients of parameters.
    """

    meter: Meter
    forward_end: int
    handed_out: list[Held]
    kept: list[Held]
    gradients: list[Held]


@contextmanager
def as_in_training() -> Iterator[None]:
    """What surrounds a call has no part in what a step does: autocast, a validation."""
    off = [torch.autocast(kind, enabled=False) for kind in ("cpu", "cuda")]
    with torch.inference_mode(False), off[0], off[1]:
        yield


@as_in_training()
def fake_step(graph: DistillGraph, batch: Mapping[str, Tensor]) -> FakeStep:
    """Runs forward and backward of a graph on fake tensors.

    Args:
        graph: must end in a loss. Its modules come out as they went in.
        batch: entries by name; only their shapes and types are looked at.

    Raises:
        CannotRun: where some code asks for the values of a tensor, or fails in other ways.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    needed = {id(value) for value in resident(graph)}
    state = {
        name: _fake(value, mode)
        for named in (graph.root.named_parameters(), graph.root.named_buffers())
        for name, value in named
        if id(value) in needed
    }
    inputs = {name: _fake(value, mode) for name, value in batch.items()}
    meter = Meter([*state.values(), *inputs.values()])
    runner = _Runner(graph, meter)
    entries = [inputs[str(n.target)] for n in graph.graph.find_nodes(op="placeholder")]
    try:
        with _as_it_was(graph.root), mode, meter, torch.enable_grad():
            named = {f"root.{name}": value for name, value in state.items()}
            out = torch.func.functional_call(runner, named, tuple(entries))
            return _with_backward(out, meter, state)
    except Exception as error:  # the models' own code may raise anything on fake tensors
        raise CannotRun(_reason(meter.node, error)) from error


@as_in_training()
def fake_forward(
    graph: DistillGraph,
    batch: Mapping[str, Tensor],
    mode: AbstractContextManager[Any],
    tell: Callable[[fx.Node, Any], None] | None = None,
) -> Any:
    """What a graph returns, run forward on fake tensors, without gradients.

    Args:
        graph: at any stage. Its modules come out as they went in.
        batch: entries by name; only their shapes and types are looked at.
        mode: entered around the run: a dispatch mode sees every operator.
        tell: called before each node with the node and the value of its first input, and behind
            a batch entry with its own.

    Raises:
        CannotRun: where some code asks for the values of a tensor, or fails in other ways.
    """
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    state = {
        f"root.{name}": _fake(value, fakes)
        for named in (graph.root.named_parameters(), graph.root.named_buffers())
        for name, value in named
    }
    inputs = {name: _fake(value, fakes) for name, value in batch.items()}
    entries = [inputs[str(n.target)] for n in graph.graph.find_nodes(op="placeholder")]
    runner = _Told(graph, tell)
    try:
        with _as_it_was(graph.root), fakes, mode, torch.no_grad():
            return torch.func.functional_call(runner, state, tuple(entries))
    except Exception as error:  # the models' own code may raise anything on fake tensors
        raise CannotRun(_reason(runner.node, error)) from error


class _Told(nn.Module):
    """Runs the graph node by node, and tells of each before it runs."""

    def __init__(
        self, graph: DistillGraph, tell: Callable[[fx.Node, Any], None] | None = None
    ) -> None:
        super().__init__()
        self.root, self.graph, self.tell, self.node = graph.root, graph, tell, ""

    def forward(self, *entries: Tensor) -> Any:
        run = fx.Interpreter(self.root, graph=self.graph.graph)
        run.args_iter = iter(entries)
        for node in self.graph:
            if node.op == "output":
                return fx.node.map_arg(node.args[0], lambda n: run.env[n])
            self.node = node.name
            first = next(iter(node.all_input_nodes), None)
            entry = node.op == "placeholder"
            if self.tell is not None and not entry:
                self.tell(node, None if first is None else run.env[first])
            run.env[node] = run.run_node(node)
            if self.tell is not None and entry:
                self.tell(node, run.env[node])
        return None


def _reason(node: str, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"%{node}: {lines[0][:160]}"


def _with_backward(out: dict[str, Any], meter: Meter, state: Mapping[str, Tensor]) -> FakeStep:
    loss, end = out["loss"], meter.time
    returned = [meter.memory_of(t) for t in tree_leaves(out)]
    out.clear()  # what this does not free is kept for the backward
    kept = [held for held in meter.held if held.freed is None]
    meter.backward = True
    if loss.requires_grad:
        loss.backward()
    handed_out = [held for held in returned if held is not None]
    for held in handed_out:  # whoever called the step still has them
        held.freed = None
    gradients = [meter.memory_of(v.grad) for v in state.values() if v.grad is not None]
    return FakeStep(meter, end, handed_out, kept, [g for g in gradients if g is not None])


class _Runner(nn.Module):
    """Runs the graph node by node, each under its name."""

    def __init__(self, graph: DistillGraph, meter: Meter) -> None:
        super().__init__()
        self.root = graph.root
        self._interpreter = _Interpreter(graph, meter)

    def forward(self, *entries: Tensor) -> Any:
        return dict(self._interpreter.run(*entries, enable_io_processing=False))


class _Interpreter(fx.Interpreter):
    def __init__(self, graph: DistillGraph, meter: Meter) -> None:
        super().__init__(graph.root, graph=graph.graph)
        self.extra_traceback = False
        self._meter = meter

    def run_node(self, n: fx.Node) -> Any:
        self._meter.node = n.name
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self._meter.dtypes[n.name] = str(result.dtype).removeprefix("torch.")
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                _tell(value.grad_fn, n.name, self._meter)
        return result


def _tell(start: Any, name: str, meter: Meter) -> None:
    """Has the backward of whatever is new under ``start`` counted for the node ``name``."""
    waiting = [start]
    while waiting:
        step = waiting.pop()
        if step is None or _KEY in step.metadata:
            continue
        step.metadata[_KEY] = name
        step.register_prehook(_Working(name, meter))
        waiting += [below for below, _ in step.next_functions]


_KEY = "kd_node"


@dataclass(frozen=True)
class _Working:
    name: str
    meter: Meter

    def __call__(self, _: object) -> None:
        self.meter.node = self.name


def _fake(value: Tensor, mode: FakeTensorMode) -> Tensor:
    """A fake with the form of ``value``, which may be on the meta device, fake or quantised."""
    wrapper: Any = value
    if is_traceable_wrapper_subclass(wrapper):
        return mode.from_tensor(value)
    device = torch.device("cpu") if value.is_meta else value.device
    with mode:
        fake = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=device)
    if isinstance(value, nn.Parameter):
        return nn.Parameter(fake, requires_grad=value.requires_grad)
    return fake


@contextmanager
def _as_it_was(root: nn.Module) -> Iterator[None]:
    """Takes back what the models' code sets on its modules: caches of fake tensors, say."""
    before = [
        (attributes, dict(attributes))
        for module in modules_below(root)
        for attributes in (vars(module), module._parameters, module._buffers, module._modules)
    ]
    try:
        yield
    finally:
        for attributes, then in before:
            attributes.clear()
            attributes.update(then)
