"""How entries of the vocabulary become nodes: inputs, shape rules, calls."""

from __future__ import annotations

from typing import Any

from torch import fx

from kdgraph.graph import DistillGraph, Role, shape_of
from kdgraph.graph.ops import tap
from kdgraph.graph.steer import Steer, schedules
from kdgraph.losses.base import Loss
from kdgraph.passes.base import Context, tagged
from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Entry
from kdgraph.spec.shapes import Shape, ShapeMismatch, show
from kdgraph.spec.steer import Schedule


class Wiring:
    """Adds entries to a graph; what does not fit is noted in the context.

    Attributes:
        named: nodes by reference, those added here too. A reference may be missing only where
            a mistake was noted for it.
    """

    def __init__(self, graph: DistillGraph, context: Context) -> None:
        self.graph = graph
        self.context = context
        self.spec = context.spec
        self.named = graph.named()

    def inputs(self, entry: Entry, part: str, name: str) -> dict[str, Any] | None:
        """Nodes for tensors and moving numbers, constants for the rest of the steered ones.

        None where one of them could not be made.
        """
        inputs: dict[str, Any] = {}
        for field in entry.ref_fields():
            value = getattr(entry, field)
            if value is None:
                continue
            refs = [value] if isinstance(value, str) else list(value)
            if any(ref not in self.named for ref in refs):
                return None
            nodes = [self.named[ref] for ref in refs]
            inputs[field] = nodes[0] if isinstance(value, str) else nodes
        for field in entry.steer_fields():
            value = getattr(entry, field)
            if isinstance(value, Schedule):
                inputs[field] = self._steer(part, name, field)
            elif value is not None:
                inputs[field] = self.named[value] if isinstance(value, str) else value
        return inputs

    def _steer(self, part: str, name: str, field: str) -> fx.Node:
        """The buffer that holds a scheduled number."""
        steer = self.context.module("steer", lambda: Steer(schedules(self.spec)))
        self.graph.root.add_module("steer", steer)
        node = self.graph.graph.get_attr(f"steer.{part}_{name}_{field}")
        return tagged(node, "steer", f"{part}.{name}", self.spec.span(part, name, field), ())

    def shapes(
        self, entry: Entry, inputs: dict[str, Any], part: str, name: str
    ) -> dict[str, Any] | None:
        """The shapes of an entry's tensors by field; None where one is no single tensor."""
        shapes: dict[str, Any] = {}
        for field in entry.ref_fields():
            if field not in inputs:
                continue
            value = inputs[field]
            found = [shape_of(v) for v in (value if isinstance(value, list) else [value])]
            if None in found:
                self.no_tensor(f"{name!r} reads {getattr(entry, field)!r}", part, name, field)
                return None
            shapes[field] = found if isinstance(value, list) else found[0]
        return shapes

    def steered(
        self, entry: Entry, inputs: dict[str, Any], shapes: dict[str, Any], part: str, name: str
    ) -> bool:
        """Whether each steered number is one number or one per sample; noted where it is not."""
        tensors = [s for v in shapes.values() for s in (v if isinstance(v, list) else [v])]
        fits = {(), *(shape[:1] for shape in tensors)}
        for field in entry.steer_fields():
            node = inputs.get(field)
            if not isinstance(node, fx.Node) or (shape := shape_of(node)) in fits:
                continue
            value = getattr(entry, field)
            if shape is None:
                self.no_tensor(f"{name!r} reads {value!r}", part, name, field)
                return False
            what = "edge" if part == "losses" else "signal"
            message = f"{what} {name!r}: {value!r} {show(shape)} for {field!r} is neither one "
            span = self.spec.span(part, name, field)
            self.context.wrong("KD301", message + "number nor one per sample", span)
            return False
        return True

    def no_tensor(self, what: str, *keys: str) -> None:
        """Notes that a reference leads to something that is not one tensor."""
        help = "reach inside the output, as in 'output.logits' or 'layer3[0]'"
        span = self.spec.span(*keys)
        self.context.wrong("KD302", f"{what}, which is not a single tensor", span, help)

    def result(self, entry: Any, shapes: dict[str, Any], part: str, name: str) -> Shape | None:
        """Runs an entry's shape rule and gives the shape of its result, () for a loss.

        None, and a note with the change that would help, where the tensors do not fit.
        """
        try:
            if isinstance(entry, Loss):
                entry.shapes(**shapes)
                return ()
            shape: Shape = entry.shape(**shapes)
            return shape
        except ShapeMismatch as mismatch:
            what = "edge" if part == "losses" else "signal"
            message = f"{what} {name!r} ({entry.use}): {mismatch}"
            self.context.wrong("KD301", message, self.spec.span(part, name), _fix(mismatch, entry))
            return None

    def call(
        self,
        key: str,
        entry: Loss | Signal,
        inputs: dict[str, Any],
        shapes: dict[str, Any],
        shape: Shape | None,
    ) -> fx.Node:
        """The node of an entry; its module is kept under ``key`` (``losses.soft``)."""
        part, name = key.split(".")
        learns = isinstance(entry, Loss)  # may; a signal has nothing to be trained
        module = self.context.module(
            key, lambda: entry.module(**shapes) if learns else entry.module()
        )
        self.graph.root.get_submodule(part).add_module(name, module)
        role: Role = "loss" if part == "losses" else "signal"
        node = self.graph.graph.call_module(key, kwargs=inputs)
        return tagged(node, role, key, self.spec.span(part, name), shape)

    def mark(self, node: fx.Node, reference: str, *keys: str) -> None:
        """Gives a node a reference; ``keys`` lead to where the spec makes it."""
        marker = self.graph.graph.call_function(tap, (node, reference))
        marker.meta |= {k: v for k, v in node.meta.items() if k.startswith("kd_")}
        marker.meta |= {"kd_span": self.spec.span(*keys), "kd_shape": shape_of(node)}
        self.named[reference] = marker


def _fix(mismatch: ShapeMismatch, entry: Entry) -> str | None:
    """The change in the spec that would make the shapes fit."""
    signals = [a.removeprefix("signal ") for a in mismatch.adapters if a.startswith("signal ")]
    if signals:
        others = [a.removeprefix("loss ") for a in mismatch.adapters if a.startswith("loss ")]
        instead = f"; of another tokenizer, `use: {others[0]}` compares them" if others else ""
        return f"a signal `use: {signals[0]}` on one side makes them fit{instead}"
    if not mismatch.adapters:
        return None
    wanted = " or ".join(mismatch.adapters)
    link = getattr(entry, "link", None)
    if link:
        return f"give link {link!r} `adapter: {wanted}`"
    return f"pair the two in a link with `adapter: {wanted}`, and write `link:` here"
