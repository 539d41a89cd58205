"""The located tree: values that know where they were written."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdgraph.errors import Diagnostic, Span, SpecError
from kdgraph.spec.scalars import DIGITS, NOT_TEXT, Scalar

Key = str | int
Keys = tuple[Key, ...]

NAMED = ("batch", "models", "links", "signals", "losses")  # whose keys are the writer's names

MAX_DEPTH = 64
MAX_NODES = 20_000
MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place. Never changed, so that an alias may share it.

    ``tag`` is what stands before it where the reader lets tags pass, such as ``!join``.
    """

    value: Scalar | tuple[Node, ...] | dict[Key, Node]
    span: Span | None = None
    keys: Mapping[Key, Span | None] = field(default_factory=dict)
    size: int = 1
    depth: int = 0
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """Where each path was written: its value (a collection: its key), and its key."""

    values: dict[Keys, Span]
    keys: dict[Keys, Span]

    def value(self, path: Keys) -> Span | None:
        """The place of the value under ``path``, or of the nearest parent that has one."""
        ends = range(len(path), -1, -1)
        return next((self.values[path[:e]] for e in ends if path[:e] in self.values), None)

    def key(self, path: Keys) -> Span | None:
        """The place of the last key of ``path``, or of the nearest parent that has one."""
        return self.keys.get(path) or self.value(path)


def mapping(items: dict[Key, Node], span: Span | None, keys: Mapping[Key, Span | None]) -> Node:
    """A mapping node with its size and depth."""
    return Node(
        items, span, keys,
        size=1 + sum(n.size for n in items.values()),
        depth=1 + max((n.depth for n in items.values()), default=0),
    )  # fmt: skip


def sequence(items: list[Node], span: Span | None) -> Node:
    """A list node with its size and depth."""
    return Node(
        tuple(items), span,
        size=1 + sum(n.size for n in items),
        depth=1 + max((n.depth for n in items), default=0),
    )  # fmt: skip


def plain(root: Node) -> tuple[Any, Places]:
    """The tree as dicts, lists and scalars, and the place of every path in it."""
    places = Places({}, {})

    def walk(node: Node, path: Keys) -> Any:
        if node.span is not None:
            places.values[path] = node.span
        if isinstance(node.value, dict):
            for key, span in node.keys.items():
                if span is not None:
                    places.keys[*path, key] = span
            return {key: walk(child, (*path, key)) for key, child in node.value.items()}
        if isinstance(node.value, tuple):
            return [walk(child, (*path, i)) for i, child in enumerate(node.value)]
        return node.value

    return walk(root, ()), places  # depth is bounded, so recursion is too


def from_python(value: object) -> Node:
    """The tree of a mapping built in Python; it has no places.

    Raises:
        SpecError: KD112 for an object a spec cannot hold, KD107 for a number that is not
            finite or too long, KD102 when it is too deep or too large.
    """
    left = MAX_NODES

    def walk(value: object, path: Keys) -> Node:
        nonlocal left
        left -= 1
        if left < 0:
            raise _python_error("KD102", path[:1], f"more than {MAX_NODES:,} values")
        if len(path) > MAX_DEPTH:
            raise _python_error("KD102", path[:1], f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str | int) or isinstance(key, bool) or not _fits(key):
                    raise _python_error(
                        "KD108", path, f"keys must be names, not {type(key).__name__}"
                    )
            items = {key: walk(child, (*path, key)) for key, child in value.items()}
            return mapping(items, None, {})
        if isinstance(value, list | tuple):
            return sequence([walk(child, (*path, i)) for i, child in enumerate(value)], None)
        if value is None or isinstance(value, bool):
            return Node(value)
        if isinstance(value, str | int | float):
            if not _fits(value):
                raise _python_error("KD107", path, "not a value that a spec can hold")
            return Node(value)
        raise _python_error("KD112", path, f"a spec cannot hold a {type(value).__name__}")

    return walk(value, ())


def _fits(value: str | int | float) -> bool:
    if isinstance(value, str):
        return NOT_TEXT.search(value) is None
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 10**DIGITS


def at_most(found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The first mistakes, and a word on the rest, which nobody would read."""
    some = list(itertools.islice(found, MAX_PROBLEMS + 1))
    if len(some) > MAX_PROBLEMS:
        some[MAX_PROBLEMS] = Diagnostic("KD119", "there are more mistakes, which are not shown")
    return some


def dotted(path: Keys) -> str:
    """``losses.soft.tau`` and ``stages[0].name``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _python_error(code: str, path: Keys, what: str) -> SpecError:
    where = dotted(path) or "the spec"
    return SpecError([Diagnostic(code, f"{where}: {what}")])
