"""A graph with its modules opened, to look inside; what is trained is the graph as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from kdgraph.capture.ladder import open_module
from kdgraph.capture.observe import RawCapture
from kdgraph.capture.record import Declined
from kdgraph.capture.world import quiet
from kdgraph.graph import DistillGraph, role_of
from kdgraph.passes._open import inputs_of, is_leaf


class Opener:
    """Opens the modules of models wherever their code can be traced; remembers what it saw."""

    def __init__(self) -> None:
        self._seen: dict[tuple[nn.Module, str], RawCapture | None] = {}

    def open(self, graph: DistillGraph) -> DistillGraph:
        """A copy in which a call of a module is what the module computes.

        Nodes of the copy tell in ``kd_within`` the name of the call that they come from. What
        takes or returns more than tensors, has hooks, or cannot be traced stays one call.
        """
        found = graph.copy()
        for node in list(found):
            if node.op == "call_module" and role_of(node) in ("teacher", "student"):
                self._open(node, found)
        return found

    def _open(self, node: fx.Node, graph: DistillGraph) -> None:
        module = graph.root.get_submodule(str(node.target))
        if _leaf(module) or any(_hooked(module.modules())):
            return
        try:
            given = inputs_of(node, module, graph.spec)
        except (Declined, TypeError):  # more than tensors, or not what its forward takes
            return
        key = module, str([(name, v.shape, v.dtype) for name, (_, v) in given.items()])
        if key not in self._seen:
            self._seen[key] = _traced(module, {name: v for name, (_, v) in given.items()})
        raw = self._seen[key]
        if raw is None:
            return
        for new in _splice(node, raw, given, graph):
            if new.op == "call_module":
                self._open(new, graph)


def _leaf(module: nn.Module) -> bool:
    """What the freeze pass takes as one, but for the blocks of our own networks."""
    return is_leaf(module) and not type(module).__module__.startswith("kdgraph.models.")


def _hooked(modules: Iterable[nn.Module]) -> Iterable[bool]:
    return (bool(m._forward_hooks or m._forward_pre_hooks) for m in modules)


def _traced(module: nn.Module, inputs: dict[str, Tensor]) -> RawCapture | None:
    """The module as a graph; where it cannot be opened right through, one level of it."""
    tries: list[Callable[[nn.Module], bool]] = [lambda m: not _leaf(m), lambda m: False]
    for opens in tries:
        try:
            with quiet():
                raw = open_module(module, inputs, opens)
        except Exception:  # the model's own code may raise anything while it is traced
            continue
        if not raw.extras and not any(n.meta.get("kd_mutates") for n in raw.graph.nodes):
            return raw
    return None


def _splice(
    node: fx.Node, raw: RawCapture, inputs: dict[str, tuple[fx.Node, Tensor]], graph: DistillGraph
) -> list[fx.Node]:
    """Puts what a call computes in its place; gives the new nodes."""
    values: dict[fx.Node, fx.Node] = {}
    made: list[fx.Node] = []
    path, name = str(node.meta.get("kd_path", "")), node.name
    for inner in raw.graph.nodes:
        if inner.op == "placeholder":
            values[inner] = inputs[str(inner.target)][0]
            continue
        if inner.op == "output":
            result = values[inner.args[0]["output"]]
            node.replace_all_uses_with(result)
            break
        target = inner.target
        if inner.op in ("call_module", "get_attr"):
            target = f"{node.target}.{target}"
        with graph.graph.inserting_before(node):
            new = graph.graph.create_node(
                inner.op,
                target,
                map_arg(inner.args, values.__getitem__),
                map_arg(inner.kwargs, values.__getitem__),
                name=f"{name}__{inner.name}",
            )
        below = f"{path}.{inner.meta.get('kd_path', '')}".strip(".")
        new.meta = {**node.meta, "val": inner.meta["val"], "kd_path": below}
        new.meta.pop("kd_shape", None)
        new.meta.setdefault("kd_within", name)
        values[inner] = new
        made.append(new)
    graph.graph.erase_node(node)
    for new in reversed(made):  # questions about shapes, asked by assertions
        if not new.users and new is not result:
            graph.graph.erase_node(new)
    return [new for new in made if new.users or new is result]
