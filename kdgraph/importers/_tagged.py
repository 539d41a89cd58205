"""YAML with constructor tags, read as data: a tag is a word, and what it would call is a name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kdgraph.errors import Span, SpecError, near
from kdgraph.importers._values import MAX_TEXT, Cannot, Opaque, evaluate, too_long
from kdgraph.spec.lines import Lines
from kdgraph.spec.text import parse
from kdgraph.spec.tree import Keys, Node, dotted


class Ledger:
    """Which parts of a file were looked at: nothing may be passed over in silence."""

    def __init__(self) -> None:
        self._whole: set[Keys] = set()
        self._single: set[Keys] = set()

    def take(self, path: Keys, *, whole: bool = False) -> None:
        """Marks a value as accounted for, with ``whole`` all that is inside of it."""
        (self._whole if whole else self._single).add(path)

    def missed(self, at: At) -> list[At]:
        """The largest parts of ``at`` that nobody looked at; empty values say nothing."""
        return self._missed(at)[1]

    def _missed(self, at: At) -> tuple[bool, list[At]]:
        """Whether all of it was missed, and the parts."""
        if at.path in self._whole or at.is_empty:
            return False, []
        children = list(at.children())
        if not children:
            return (True, [at]) if at.path not in self._single else (False, [])
        found = [self._missed(child) for child in children]
        real = [f for f, child in zip(found, children, strict=True) if not child.is_empty]
        if real and all(whole for whole, _ in real) and at.path not in self._single:
            return True, [at]
        return False, [part for _, parts in found for part in parts]


@dataclass(frozen=True)
class At:
    """A value of the file, where it stands, and the ledger that its reading is noted in."""

    node: Node
    path: Keys
    key_span: Span | None
    ledger: Ledger

    @property
    def span(self) -> Span | None:
        """Its place: of a mapping or a list that of its key."""
        return self.node.span or self.key_span

    @property
    def where(self) -> str:
        """``train.stage1.criterion``."""
        return dotted(self.path) or "the file"

    @property
    def is_empty(self) -> bool:
        """Whether nothing is written: null, ``[]`` or ``{}``, without a tag."""
        return self.node.tag is None and self.node.value in (None, (), {})

    def children(self) -> Iterator[At]:
        """The values in it, of a mapping or a list."""
        value = self.node.value
        if isinstance(value, dict):
            for key, child in value.items():
                yield At(child, (*self.path, key), self.node.keys.get(key), self.ledger)
        elif isinstance(value, tuple):
            for index, child in enumerate(value):
                yield At(child, (*self.path, index), child.span, self.ledger)

    def items(self) -> list[tuple[str, At]]:
        """Keys and values of a mapping; of an empty value none.

        Raises:
            SpecError: KD124 when it is something else.
        """
        if self.is_empty:
            return []
        if not isinstance(self.node.value, dict):
            raise self.wrong("a mapping")
        return [(str(child.path[-1]), child) for child in self.children()]

    def inner(self) -> list[At]:
        """The values of a mapping; see ``items``."""
        return [child for _, child in self.items()]

    def get(self, *names: str) -> At | None:
        """The value under the first of ``names`` that is written and not empty."""
        known = dict(self.items())
        return next((known[n] for n in names if n in known and not known[n].is_empty), None)

    def need(self, *names: str) -> At:
        """As ``get``.

        Raises:
            SpecError: KD123 when there is none.
        """
        found = self.get(*names)
        if found is None:
            hint = near(names[0], [key for key, _ in self.items() if key not in names])
            raise SpecError.of(
                "KD123", f"{self.where} has no {names[0]!r}", span=self.span, help=hint
            )
        return found

    def read(self) -> Any:
        """The value as Python data, all of it noted as read; see ``evaluate`` for tags."""
        self.ledger.take(self.path, whole=True)
        return evaluate(self.node)

    def _known(self) -> Any:
        """The value, which must not hang on code.

        Raises:
            Cannot: only running a tag would tell it.
        """
        value = self.read()
        if isinstance(value, Opaque):
            raise Cannot(f"only running {value} would tell {self.where}", self.span)
        return value

    def text(self) -> str:
        """The value, which has to be text (or a number, as names of taps may be)."""
        value = self._known()
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.wrong("text", value)
        return str(value)

    def number(self) -> float | int:
        """The value, which has to be a number."""
        value = self._known()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong("a number", value)
        return value

    def count(self) -> int:
        """The value, which has to be a whole number above 0."""
        value = self.number()
        if not isinstance(value, int) or value < 1:
            raise self.wrong("a whole number above 0", value)
        return value

    def flag(self) -> bool:
        """The value, which has to be true or false."""
        value = self._known()
        if not isinstance(value, bool):
            raise self.wrong("true or false", value)
        return value

    def texts(self) -> list[str]:
        """The value, which has to be a list of texts."""
        value = self._known()
        if not isinstance(value, list) or not all(isinstance(v, str | int) for v in value):
            raise self.wrong("a list of names", value)
        return [str(v) for v in value]

    def table(self) -> dict[str, Any]:
        """The value, which has to be a mapping."""
        value = self._known()
        if not isinstance(value, dict):
            raise self.wrong("a mapping", value)
        return {str(key): inner for key, inner in value.items()}

    def wrong(self, expected: str, value: object = None) -> SpecError:
        """The error that something else was expected than ``value`` (left out: what is written)."""
        value = self.node.value if value is None else value
        given = self.node.tag or ("a mapping" if isinstance(value, dict) else "a list")
        if value is None or isinstance(value, str | int | float):
            given = "nothing" if value is None else f"{value!r:.60}"
        message = f"{self.where} must be {expected}, not {given}"
        return SpecError.of("KD124", message, span=self.span)


def read_tagged(text: str, file: str) -> At:
    """The whole of a file.

    Raises:
        SpecError: KD101 to KD109, as for a spec; KD102 also for a single value of more than
            1,024 characters.
    """
    lines = Lines(file, text)
    if not text.strip():
        raise SpecError.of("KD106", "this file is empty", span=lines.span(0, 0))
    root = parse(text, lines, tagged=True)
    if (long := _too_long(root, set())) is not None:
        raise too_long(long.span)
    return At(root, (), root.span, Ledger())


def _too_long(node: Node, seen: set[int]) -> Node | None:
    """The first value or key that is too long; each shared node is looked at once."""
    if id(node) in seen:
        return None
    seen.add(id(node))
    value = node.value
    if isinstance(value, str):
        return node if len(value) > MAX_TEXT else None
    if isinstance(value, dict):
        if any(isinstance(key, str) and len(key) > MAX_TEXT for key in value):
            return node
        inner: tuple[Node, ...] = tuple(value.values())
    else:
        inner = value if isinstance(value, tuple) else ()
    return next((found for child in inner if (found := _too_long(child, seen))), None)
