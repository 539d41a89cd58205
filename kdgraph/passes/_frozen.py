"""What rewrites of one model share: its nodes, modules and values; for a frozen one more."""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from kdgraph.capture.observe import version_of
from kdgraph.graph import DistillGraph, Role, owner_of, role_of
from kdgraph.passes.base import Context, tagged


class ModelPart:
    """The part of one model in a graph that is being rewritten.

    Attributes:
        role: which role the nodes of the model play.
    """

    role: Role = "student"

    def __init__(self, graph: DistillGraph, context: Context, name: str) -> None:
        self.graph, self.context, self.name = graph, context, name

    def nodes(self) -> list[fx.Node]:
        """The model's nodes in order, tap markers among them."""
        return [n for n in self.graph if self.owns(n)]

    def owns(self, node: fx.Node) -> bool:
        """Whether a node is the model's."""
        return node.op != "output" and role_of(node) == self.role and owner_of(node) == self.name

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node of the model calls."""
        if node.op != "call_module" or not self.owns(node):
            return None
        return self.graph.root.get_submodule(str(node.target))

    def tensor(self, node: object) -> Tensor | None:
        """The parameter or buffer that a node of the model reads."""
        if not isinstance(node, fx.Node) or node.op != "get_attr" or not self.owns(node):
            return None
        value: Any = operator.attrgetter(str(node.target))(self.graph.root)
        return value if isinstance(value, Tensor) else None

    def tag(self, node: fx.Node, like: fx.Node, path: str | None = None) -> fx.Node:
        """Gives a new node the meta data of one of the model."""
        tagged(node, self.role, self.name, like.meta["kd_span"])
        node.meta["kd_path"] = like.meta.get("kd_path", "") if path is None else path
        if "val" in like.meta:
            node.meta["val"] = like.meta["val"]
        return node


class FrozenModel(ModelPart):
    """One frozen model.

    Attributes:
        done: what was done, counted, by the words that say so ("# thing*": 1 thing, 2 things).
        kept: what was not, by the reason, with the places.
    """

    role = "teacher"

    def __init__(self, graph: DistillGraph, context: Context, name: str) -> None:
        super().__init__(graph, context, name)
        self.done: Counter[str] = Counter()
        self.kept: dict[str, list[str]] = {}
        self._made: list[str] = []

    def add(self, path: str, make: Callable[[], nn.Module]) -> str:
        """Puts a new module under ``frozen`` and gives its target, named after ``path``."""
        frozen = self.graph.root.get_submodule("frozen")
        flat = f"{self.name}_{path.replace('.', '_')}".rstrip("_")
        names = itertools.chain([flat], (f"{flat}_{i}" for i in itertools.count(2)))
        name = next(n for n in names if not hasattr(frozen, n))
        frozen.add_module(name, self.context.module(f"frozen.{name}", make))
        self._made.append(name)
        return f"frozen.{name}"

    def constant(self, path: str, value: Tensor) -> str:
        """Puts a tensor under ``frozen`` and gives its target."""
        return f"{self.add(path, lambda: _Constant(value))}.value"

    def trial(self) -> Callable[[], None]:
        """Goes on with a copy of the graph; gives what undoes all that is done from here on."""
        graph, done, sources = self.graph, self.done.copy(), dict(self.context.sources)
        before = len(self._made)
        self.graph = graph.copy()

        def undo() -> None:
            for name in self._made[before:]:
                self.context.modules.pop(f"frozen.{name}", None)
                delattr(self.graph.root.get_submodule("frozen"), name)
            del self._made[before:]
            self.graph, self.done, self.context.sources = graph, done, sources

        return undo

    def reads(self, target: str, value: Tensor) -> None:
        """Notes that the value of a tensor went into something new."""
        if target.startswith("models.") and not self.context.skeleton:
            name = target.removeprefix("models.")
            self.context.sources.setdefault(name, (value, version_of(value)))

    def drop_unread(self) -> None:
        """Removes nodes that nobody reads any more, and checks of shapes that hold by now."""
        for node in reversed(self.nodes()):
            check = getattr(node.target, "__name__", "") in ("_assert", "_assert_async")
            marker = node.op == "call_function" and getattr(node.target, "__name__", "") == "tap"
            if not node.users and not marker and (check or not node.meta.get("kd_mutates")):
                self.graph.graph.erase_node(node)

    def replace(self, node: fx.Node, value: fx.Node) -> None:
        """Puts a value in the place of a node."""
        node.replace_all_uses_with(value)
        self.graph.graph.erase_node(node)

    def keep(self, reason: str, place: str) -> None:
        """Notes that something stays as it was, and why."""
        self.kept.setdefault(reason, []).append(place)

    def report(self) -> None:
        """Says what was done and what was not."""
        for what, count in self.done.items():
            said = what.replace("#", str(count)).replace("*", "" if count == 1 else "s")
            self.context.did.append(f"{self.name}: {said}")
        for reason, places in self.kept.items():
            more = f" and {len(places) - 3} more" if len(places) > 3 else ""
            where = f"{', '.join(places[:3])}{more}: " if any(places) else ""
            self.context.declined.append(f"{self.name}: {where}{reason}")


class _Constant(nn.Module):
    """Holds a tensor that depends on no batch, and moves with the model."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value.detach())
