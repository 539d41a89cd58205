"""Where the neurons of a layer go, followed on the graph of its network."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from torch import Tensor, fx, nn

from kdgraph.actions._spots import Closed, Spot, Stuck, shape_of
from kdgraph.actions._steps import Cut, Step, start, step
from kdgraph.actions._words import name_of
from kdgraph.capture import Captured, parse_tap
from kdgraph.capture.ladder import open_module
from kdgraph.capture.observe import RawCapture
from kdgraph.capture.record import one_line
from kdgraph.errors import CaptureError
from kdgraph.graph.example import example_batch
from kdgraph.spec.language import Spec


class Untraced(Stuck):
    """There is no graph to follow them on."""


@dataclass
class Flow:
    """The way of a layer's neurons through a network, in eval mode.

    Attributes:
        net: the network.
        raw: its graph.
        inputs: batch entries, in the order of the graph's inputs.
        tapped: paths of all taps of the spec in it, by reference.
        width: how many neurons there are.
        taps: nodes behind the first activation; what consumers read where there is none.
        consumers: calls of the layers that sum over the neurons: the node they read, and where
            the neurons stand in it.
        cuts: the tensors that shrink with them, by module.
        shown: taps of the spec that have the neurons in them: their shapes, and where.
        moved: what makes something else of a neuron that is 0 behind its activation, if anything.
    """

    net: nn.Module
    raw: RawCapture
    inputs: list[str]
    tapped: Mapping[str, str]
    width: int = 0
    taps: dict[fx.Node, Spot] = field(default_factory=dict)
    consumers: dict[fx.Node, tuple[fx.Node, Spot]] = field(default_factory=dict)
    cuts: dict[nn.Module, set[Cut]] = field(default_factory=dict)
    shown: dict[str, tuple[tuple[int, ...], Spot]] = field(default_factory=dict)
    moved: str | None = None

    def reader(self, wanted: list[fx.Node]) -> fx.GraphModule:
        """The graph as far as some of its nodes, whose values it returns in a tuple."""
        needed = set(wanted)
        for node in reversed(self.raw.graph.nodes):
            if node in needed or node.op == "placeholder" or node.meta.get("kd_mutates"):
                needed |= {node, *node.all_input_nodes}
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        for node in self.raw.graph.nodes:
            if node in needed:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[node] for node in wanted))
        extras, modules = self.raw.extras, self.raw.modules(self.net)
        return Captured("fx", graph, self.net, extras, modules).graph_module()


def follow(spec: Spec, model: str, net: nn.Module, path: str) -> Flow:
    """Follows the neurons of a layer.

    Args:
        spec: says what the model reads, and what is tapped in it.
        model: the name of the network.
        net: the network.
        path: of the layer in it.

    Raises:
        Stuck: with the reason why the neurons cannot be removed.
    """
    with in_mode(net, training=False):
        found = _in_this_mode(spec, model, net, path)
    with in_mode(net, training=True):
        try:
            other = _in_this_mode(spec, model, net, path)
        except Untraced:  # random numbers in its own code, say: what eval mode shows must do
            return found
    if other.cuts != found.cuts:
        raise Stuck("other layers read them in training than in evaluation")
    return found


def _in_this_mode(spec: Spec, model: str, net: nn.Module, path: str) -> Flow:
    inputs, entries = example_inputs(spec, model, net)
    roles = [name for name in spec.models if spec.network(name) == model]
    taps = {f"{r}.{t}": text for r in roles for t, text in spec.models[r].taps.items()}
    opened: set[type] = set()
    while True:
        raw = _traced(net, inputs, taps, path, opened)
        try:
            return _Follower(Flow(net, raw, entries, taps), net.get_submodule(path)).run()
        except Closed as closed:
            kind = type(closed.module)
            if kind in opened or not _may_open(closed.module):
                raise
            opened.add(kind)


@contextmanager
def in_mode(net: nn.Module, *, training: bool) -> Iterator[None]:
    """Sets a network to train or eval mode for a while."""
    modes = {module: module.training for module in net.modules()}
    net.train(training)
    try:
        yield
    finally:
        for module, before in modes.items():
            module.training = before


def example_inputs(
    spec: Spec, model: str, net: nn.Module, batch: int | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Examples for the arguments of a network's forward, and the batch entries they stand for."""
    written = spec.inputs(model)
    if isinstance(written, str):
        first = next(iter(inspect.signature(net.forward).parameters), "input")
        written = {first: written}
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    entries = example_batch(spec, device, batch)
    return {name: entries[entry] for name, entry in written.items()}, list(written.values())


_LAYER, _WHOLE = "the layer", "the whole output"


def _traced(
    net: nn.Module, inputs: Mapping[str, Tensor], taps: Mapping[str, str], path: str,
    opened: set[type],
) -> RawCapture:  # fmt: skip
    """The graph, open around the layer, around all taps, and where ``opened`` says so."""
    taps = {**taps, _LAYER: path, _WHOLE: "output"}
    try:
        try:
            return open_module(net, inputs, lambda m: type(m) in opened, taps)
        except CaptureError:  # the output may be more than one tensor
            del taps[_WHOLE]
            return open_module(net, inputs, lambda m: type(m) in opened, taps)
    except Exception as error:  # the model's own code may raise anything while it is traced
        raise Untraced(f"its surroundings cannot be traced: {one_line(error)}") from error


def _may_open(module: nn.Module) -> bool:
    """Whether there is something to see inside: torch's own layers are known by their type."""
    own = type(module).__module__.startswith("torch.nn")
    return not own or any(True for _ in module.children())


class _Follower:
    """Goes through the nodes of a graph in order."""

    def __init__(self, flow: Flow, layer: nn.Module) -> None:
        self.flow = flow
        self.layer = layer
        self.modules = dict(flow.net.named_modules(remove_duplicate=False))
        self.spots: dict[fx.Node, Spot] = {}
        self.active: set[fx.Node] = set()  # with an activation before them
        self.moved: dict[fx.Node, str] = {}  # behind an activation, a 0 is something else
        self.calls: dict[nn.Module, list[set[Cut]]] = {}

    def run(self) -> Flow:
        """The whole graph.

        Raises:
            Stuck: with the reason why the neurons cannot be removed.
        """
        *nodes, output = self.flow.raw.graph.nodes
        for node in nodes:
            self._node(node)
        for name, node in output.args[0].items():
            if node in self.spots and name != _LAYER:
                if name == _WHOLE or parse_tap(self.flow.tapped[name]).path == "":
                    raise Stuck("the output of the network would shrink")
                self.flow.shown[name] = shape_of(node), self.spots[node]
        if not self.flow.consumers:
            raise Stuck("nothing in the network reads them")
        self._collect(nodes)
        return self.flow

    def _node(self, node: fx.Node) -> None:
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        given = [n for n in node.all_input_nodes if n in self.spots]
        cuts: set[Cut] = set()
        if given and (found := step(node, module, self.spots)) is not None:
            cuts |= set(found.cuts)
            if found.spot is None:
                self._consumed(node, given[0])
            else:
                self.spots[node] = found.spot
                self._passed(node, module, given, found)
        if module is self.layer:
            if node in self.spots:
                raise Stuck("it stands behind itself")
            self.spots[node], own = start(node, self.layer)
            self.flow.width = shape_of(node)[self.spots[node].dim]
            cuts |= set(own)
        if module is not None:
            self.calls.setdefault(module, []).append(cuts)

    def _consumed(self, node: fx.Node, read: fx.Node) -> None:
        self.flow.consumers[node] = read, self.spots[read]
        if read not in self.active:
            self.flow.taps[read] = self.spots[read]
        elif read in self.moved:
            self.flow.moved = self.moved[read]

    def _passed(
        self, node: fx.Node, module: nn.Module | None, given: list[fx.Node], found: Step
    ) -> None:
        if all(n in self.active for n in given):
            self.active.add(node)
            if not found.zero:
                self.moved[node] = name_of(node, module)
            else:
                for before in given:
                    if before in self.moved:
                        self.moved[node] = self.moved[before]
        elif found.activates:
            self.active.add(node)
            self.flow.taps[node] = self.spots[node]

    def _collect(self, nodes: Sequence[fx.Node]) -> None:
        """All calls of a module must be of these neurons, and no other code must hold it."""
        for module, cuts in self.calls.items():
            if any(cuts) and any(found != cuts[0] for found in cuts):
                raise Stuck(f"a {type(module).__name__} is also called on other values")
            if cuts[0]:
                self.flow.cuts[module] = cuts[0]
        tensors = {id(getattr(m, c.tensor)) for m, cuts in self.flow.cuts.items() for c in cuts}
        for node in nodes:
            if node.op == "get_attr" and id(attrgetter(str(node.target))(self.flow.net)) in tensors:
                raise Stuck(f"the model's code reads {node.target} by itself")
            if node.op == "call_module":
                inside = list(self.modules[str(node.target)].modules())[1:]
                if any(m in self.flow.cuts for m in inside):
                    raise Stuck(f"{node.target} has a layer inside that would change with it")
