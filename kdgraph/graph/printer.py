"""The graph as text: one line a node, in order, for people and for golden files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdgraph.graph.distill_graph import owner_of, role_of, shape_of
from kdgraph.spec.shapes import show

if TYPE_CHECKING:
    from torch import fx

    from kdgraph.graph.distill_graph import DistillGraph


def text(graph: DistillGraph) -> str:
    """``student   student        %layer3 [13, 64, 8, 8] = models.student.layer3(%layer2)``."""
    nodes = [n for n in graph if n.op != "output"]
    width = max((len(owner_of(n)) for n in nodes), default=0)
    lines = [f"{role_of(n):8} {owner_of(n):{width}}  {_line(n)}" for n in nodes]
    returned = ", ".join(_returns(graph.outputs))
    return "\n".join([*lines, f"return {returned}"])


def _line(node: fx.Node) -> str:
    shape = shape_of(node)
    head = f"%{node.name}" + (f" {show(shape)}" if shape is not None else "")
    if node.op == "placeholder":
        return f"{head} = batch {node.target}"
    inputs = [_value(a) for a in node.args]
    inputs += [f"{k}={_value(v)}" for k, v in node.kwargs.items()]
    return f"{head} = {target_name(node)}({', '.join(inputs)})"


def target_name(node: fx.Node) -> str:
    """What a node calls, as a reader would write it."""
    target = node.target
    if isinstance(target, str):
        return target
    module = getattr(target, "__module__", None) or ""
    name = getattr(target, "__name__", str(target))
    return f"{module}.{name}".removeprefix("_operator.").removeprefix("kdgraph.graph.ops.")


def _value(value: object) -> str:
    from torch import fx

    if isinstance(value, fx.Node):
        return f"%{value.name}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    return repr(value)


def _returns(value: object, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [t for k, v in value.items() for t in _returns(v, f"{path}.{k}".lstrip("."))]
    return [f"{path}={_value(value)}"]
