"""How the nodes of a box unfold: module by module, as their paths say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from torch import fx, nn

Item = int | dict[str, Any]
Named = Callable[[fx.Node], int]


def items(
    nodes: Sequence[fx.Node], root: nn.Module, box: str, model: str | None, number: Named
) -> list[Item]:
    """What a box unfolds to.

    Args:
        nodes: of the box, in order.
        root: of the graph; tells what kind a module is.
        box: the box's id, the start of every id.
        model: that they are of, if they are of one.
        number: the number of a node in the scene's pool.

    Returns:
        Numbers of nodes, and for modules with more than one of them ``id``, ``title``, ``kind``,
        ``path`` and their own ``items``. A module that the nodes come back to stands twice.
    """
    return _Fold(root, box, model, number).items(nodes, 0)


class _Fold:
    def __init__(self, root: nn.Module, box: str, model: str | None, number: Named) -> None:
        self.root, self.box, self.model, self.number = root, box, model, number
        self.ids: dict[str, int] = {}

    def items(self, nodes: Sequence[fx.Node], depth: int) -> list[Item]:
        found = list(self._parts(nodes, depth))
        while len(found) == 1 and isinstance(found[0], dict):  # a lone module inside another
            found = found[0]["items"]
        return found

    def _parts(self, nodes: Sequence[fx.Node], depth: int) -> Iterator[Item]:
        for path, run in groupby(nodes, key=lambda n: _front(n, depth)):
            part = list(run)
            if path is None or len(part) == 1:
                yield from map(self.number, part)
            else:
                yield self._module(path, part, depth)

    def _module(self, path: str, nodes: Sequence[fx.Node], depth: int) -> Item:
        inner = depth + 1
        while len({_front(n, inner) for n in nodes}) == 1 and _front(nodes[0], inner) is not None:
            path, inner = str(_front(nodes[0], inner)), inner + 1
        key = f"{self.box}/{path}"
        self.ids[key] = self.ids.get(key, 0) + 1
        again = f"#{self.ids[key]}" if self.ids[key] > 1 else ""
        return {
            "id": key + again,
            "title": _title(path),
            "kind": self._kind(path),
            "path": path,
            "items": self.items(nodes, inner),
        }

    def _kind(self, path: str) -> str:
        try:
            return type(self.root.get_submodule(f"models.{self.model}.{path}")).__name__
        except AttributeError:  # a path that passes have made up, or a function's
            return ""


def _front(node: fx.Node, depth: int) -> str | None:
    """The path of the module ``depth`` levels down that a node lies in; None if in none."""
    parts = str(node.meta.get("kd_path", "")).split(".")
    return ".".join(parts[: depth + 1]) if len(parts) > depth and parts[0] else None


def _title(path: str) -> str:
    """``blocks.3`` of ``encoder.blocks.3``: a name, with the number behind it."""
    *_, last = parts = path.split(".")
    return ".".join(parts[-2:]) if last.isdecimal() and len(parts) > 1 else last
