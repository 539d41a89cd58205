"""``DistillGraph``: one flat fx graph over every model, link, signal and loss of a spec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, fx, nn

from kdgraph.graph.ops import tap
from kdgraph.spec.language import Spec
from kdgraph.spec.shapes import Shape

Role = Literal["batch", "teacher", "student", "adapter", "signal", "steer", "loss", "total"]


class DistillGraph:
    """The training step as a graph that runs at every stage of compilation.

    Attributes:
        graph: the fx graph. Placeholders are the batch entries; the output is a mapping.
        root: owns every module that the graph calls: ``models.NAME``, ``adapters.NAME``,
            ``signals.NAME``, ``losses.NAME`` and the steered numbers in ``steer``; passes put what
            they make of frozen models under ``frozen`` and of losses under ``rewritten``.
        spec: what it was built from.

    Keys of ``node.meta``: ``kd_role`` (see ``Role``), ``kd_owner`` (``teacher``,
    ``losses.soft``), ``kd_path`` (module path inside a model), ``kd_span`` (place in the spec),
    ``kd_shape`` (shape at the example batch), ``kd_mutates`` (changes a tensor it reads),
    ``kd_state`` (and that tensor is a buffer), ``kd_calls`` (of how many calls of one network it
    puts the batches together).
    """

    def __init__(self, graph: fx.Graph, root: nn.Module, spec: Spec) -> None:
        self.graph = graph
        self.root = root
        self.spec = spec

    def copy(self) -> DistillGraph:
        """The same graph in new nodes; modules and parameters are shared."""
        graph = fx.Graph()
        value = graph.graph_copy(self.graph, {})
        graph.output(value).meta = dict(self.output.meta)
        return DistillGraph(graph, self.root, self.spec)

    def module(self) -> fx.GraphModule:
        """The graph as a module, to run it as it stands; shares all parameters."""
        return fx.GraphModule(self.root, self.graph, class_name="DistillGraph")

    def named(self) -> dict[str, fx.Node]:
        """Nodes by reference: batch entries, taps, link sides and signals."""
        found = {str(n.target): n for n in self.graph.find_nodes(op="placeholder")}
        for node in self.graph.find_nodes(op="call_function", target=tap):
            found[str(node.args[1])] = node
        return found

    @property
    def output(self) -> fx.Node:
        """The output node."""
        return self.graph.output_node()

    @property
    def outputs(self) -> dict[str, Any]:
        """What the output node returns."""
        value = self.output.args[0]
        assert isinstance(value, dict)
        return value

    def __iter__(self) -> Iterator[fx.Node]:
        return iter(self.graph.nodes)

    def __str__(self) -> str:
        from kdgraph.graph.printer import text

        return text(self)


def role_of(node: fx.Node) -> Role:
    """What part a node plays."""
    role: Role = node.meta["kd_role"]
    return role


def owner_of(node: fx.Node) -> str:
    """Which model, adapter, signal or loss a node belongs to."""
    return str(node.meta["kd_owner"])


def shape_of(node: fx.Node) -> Shape | None:
    """The shape of a node's value at the example batch; None where it is not one tensor."""
    if "kd_shape" in node.meta:
        shape: Shape | None = node.meta["kd_shape"]
        return shape
    value = node.meta.get("val")
    return tuple(int(s) for s in value.shape) if isinstance(value, Tensor) else None
