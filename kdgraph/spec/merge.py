"""``extends`` and ``--set``: one located tree out of several."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from kdgraph.errors import Diagnostic, Span, SpecError, near
from kdgraph.spec.lines import Lines
from kdgraph.spec.sources import MAX_BYTES, read_file
from kdgraph.spec.steer import SCHEDULES
from kdgraph.spec.text import parse
from kdgraph.spec.tree import (
    MAX_DEPTH,
    MAX_NODES,
    NAMED,
    Key,
    Keys,
    Node,
    dotted,
    mapping,
    sequence,
)

MAX_FILES = 32


class Files:
    """Reads files and what they extend, each file once; all together are no larger than one."""

    def __init__(self) -> None:
        self._done: dict[str, Node] = {}
        self._size = 0

    def load(
        self, path: str, *, extended: bool = False, span: Span | None = None,
        chain: tuple[str, ...] = (),
    ) -> Node:  # fmt: skip
        """The tree of a file with everything it extends merged in.

        Raises:
            SpecError: as ``read_file`` and ``parse`` do, and KD120 for files that extend
                each other in a circle, or too many files.
        """
        full = os.path.normpath(Path(path).absolute())
        if full in chain:
            names = [Path(p).name for p in (*chain[chain.index(full) :], full)]
            raise _extends_error(f"files extend each other: {' -> '.join(names)}", span)
        if full not in self._done:
            if len(self._done) + len(chain) >= MAX_FILES:
                raise _extends_error(f"more than {MAX_FILES} files extend each other", span)
            try:
                text = read_file(path, extended=extended, span=span)
            except SpecError as error:
                raise _with_neighbours(error, path, span) from None
            self._size += len(text)
            if self._size > MAX_BYTES:
                message = f"more than {MAX_BYTES // 1024} KiB of text in files that extend others"
                raise SpecError([Diagnostic("KD102", message, span)])
            root = top(parse(text, Lines(path, text)), path)
            self._done[full] = self.extend(root, Path(path).parent, chain=(*chain, full))
        return self._done[full]

    def extend(self, root: Node, folder: Path, *, chain: tuple[str, ...] = ()) -> Node:
        """``root`` over the files that its ``extends`` names, the first one undermost."""
        assert isinstance(root.value, dict)
        if "extends" not in root.value:
            return root
        wanted = root.value["extends"]
        own = {k: n for k, n in root.value.items() if k != "extends"}
        merged = mapping({}, root.span, {})
        nodes = wanted.value if isinstance(wanted.value, tuple) else (wanted,)
        if len(nodes) > MAX_FILES:
            raise _extends_error(f"more than {MAX_FILES} files extend each other", wanted.span)
        for node in nodes:
            if not isinstance(node.value, str) or not node.value:
                raise _extends_error("expected a file name or a list of them", node.span)
            path = os.path.normpath(folder / node.value)
            merged = merge(merged, self.load(path, extended=True, span=node.span, chain=chain))
            if merged.size > MAX_NODES:
                message = f"more than {MAX_NODES:,} values in files that extend others"
                raise SpecError([Diagnostic("KD102", message, node.span)])
        return merge(merged, mapping(own, root.span, {k: root.keys.get(k) for k in own}))


def top(root: Node, file: str) -> Node:
    """``root`` when it is a mapping.

    Raises:
        SpecError: KD106 when it is not.
    """
    if isinstance(root.value, dict):
        return root
    message = f"a spec is a mapping of keys to values, not {kind(root)}"
    help = "start it with `kdgraph: 1`"
    if file == "<text>" and isinstance(root.value, str):  # a path that ends in a line break
        help = f"is there a file {root.value!r}?"
    raise SpecError([Diagnostic("KD106", message, root.span, help)])


def merge(base: Node, over: Node, path: Keys = ()) -> Node:
    """``over`` written on top of ``base``: key by key, null takes a key away.

    A mapping that picks something else (``use``, ``source``) or is a schedule replaces the
    one below it whole, since the keys below belong to another choice.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    if _replaces(base.value, over.value, path):
        return over
    items, keys = dict(base.value), dict(base.keys)
    for key, node in over.value.items():
        if node.value is None and key in items:
            del items[key]
            keys.pop(key, None)
            continue
        items[key] = merge(items[key], node, (*path, key)) if key in items else node
        keys[key] = over.keys.get(key)
    return mapping(items, over.span, keys)


def _replaces(base: dict[Key, Node], over: dict[Key, Node], path: Keys) -> bool:
    for choice in ("use", "source"):
        if choice in base and choice in over and base[choice].value != over[choice].value:
            return True
    is_parameter = len(path) >= 3 and path[0] in ("losses", "signals")
    return is_parameter and any(k in SCHEDULES.names() for k in over)


def override(root: Node, text: str, number: int) -> Node:
    """``root`` with ``PATH=VALUE``, the ``number``-th of the command line, written into it.

    Raises:
        SpecError: KD121 when the text is not of that form or the value is not YAML, KD122 when
            the path leads nowhere.
    """
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not value.strip() or not all(keys):
        place = Span("--set", number, 1, len(text), text)
        raise SpecError([Diagnostic("KD121", "expected PATH=VALUE", place, "losses.soft.tau=2")])
    node = parse(value, Lines("--set", value, shift=(number, len(path) + 1, text)))
    if len(keys) + node.depth > MAX_DEPTH:
        place = Span("--set", number, 1, len(path), text)
        raise SpecError([Diagnostic("KD102", f"nested deeper than {MAX_DEPTH} levels", place)])
    starts = [sum(len(k) + 1 for k in keys[:i]) for i in range(len(keys))]
    spans = [
        Span("--set", number, at + 1, len(k), text) for at, k in zip(starts, keys, strict=True)
    ]
    return _write(root, tuple(zip(keys, spans, strict=True)), node, ())


def _write(node: Node, steps: tuple[tuple[str, Span], ...], value: Node, done: Keys) -> Node:
    (word, span), rest = steps[0], steps[1:]
    if isinstance(node.value, tuple):
        return _write_item(node, steps, value, done)
    if not isinstance(node.value, dict):
        raise _path_error(f"{dotted(done)} is {kind(node)}, not a mapping", span)
    key: Key = int(word) if word.isdecimal() and int(word) in node.value else word
    items, keys = dict(node.value), dict(node.keys)
    if not rest and value.value is None and key in items:
        del items[key]
        return mapping(items, node.span, {k: s for k, s in keys.items() if k != key})
    if key not in items and (rest or value.value is None):
        if (len(done) == 1 and done[0] in NAMED) or value.value is None:
            names = [str(k) for k in items]
            where = dotted(done) or "the spec"
            raise _path_error(f"{where} has no {word!r}", span, near(word, names))
        items[key] = mapping({}, span, {})
    if rest:
        items[key] = _write(items[key], rest, value, (*done, key))
        keys.setdefault(key, span)
    else:
        items[key], keys[key] = value, span
    return mapping(items, node.span, keys)


def _write_item(node: Node, steps: tuple[tuple[str, Span], ...], value: Node, done: Keys) -> Node:
    (word, span), rest = steps[0], steps[1:]
    assert isinstance(node.value, tuple)
    if not word.isdecimal() or int(word) >= len(node.value):
        raise _path_error(
            f"{dotted(done)} is a list of {len(node.value)} items, counted from 0", span
        )
    items, at = list(node.value), int(word)
    items[at] = _write(items[at], rest, value, (*done, at)) if rest else value
    return sequence(items, node.span)


def kind(node: Node) -> str:
    """What a node holds, with its article."""
    value = node.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, tuple):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "nothing"
    return "text" if isinstance(value, str) else "a number"


def _with_neighbours(error: SpecError, path: str, span: Span | None) -> SpecError:
    """The error with the near match among the specs beside a file that is not there."""
    first = error.diagnostics[0]
    folder = Path(path).parent
    if first.code != "KD100" or span is None or not folder.is_dir():
        return error
    beside = [p.name for pattern in ("*.yaml", "*.yml") for p in folder.glob(pattern)]
    return SpecError([replace(first, help=near(Path(path).name, sorted(beside)))])


def _extends_error(message: str, span: Span | None) -> SpecError:
    return SpecError([Diagnostic("KD120", message, span)])


def _path_error(message: str, span: Span, help: str | None = None) -> SpecError:
    return SpecError([Diagnostic("KD122", message, span, help)])
