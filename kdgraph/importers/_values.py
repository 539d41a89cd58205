"""What values of a file with constructor tags mean, as far as that takes no calls."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Any

from kdgraph.errors import Diagnostic, Span, SpecError
from kdgraph.spec.scalars import ScalarError, resolve
from kdgraph.spec.tree import Node

MAX_TEXT = 1024  # characters of one value: aliases repeat it, and so does the spec
_STANDARD = "tag:yaml.org,2002:"


class Cannot(Exception):
    """A part of the file that no spec can say; the text completes "left out: ..."."""

    def __init__(self, why: str, span: Span | None = None) -> None:
        super().__init__(why)
        self.span = span


@dataclass(frozen=True)
class Opaque:
    """What only running a tag would tell.

    Attributes:
        tag: ``!import_call``.
        name: the dotted name it would import, where it is written.
    """

    tag: str
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.tag} {self.name}" if self.name else self.tag


def evaluate(node: Node) -> Any:
    """Python data. Pure tags are worked out (``!join``, ``!pathjoin``); others are ``Opaque``.

    Raises:
        SpecError: KD102 when joining makes a text of more than 1,024 characters; KD107 for a
            number that none can be.
    """
    tag, value = node.tag, node.value
    if isinstance(value, tuple):
        items = [evaluate(child) for child in value]
        return items if tag is None else _of_list(tag, items, node)
    if isinstance(value, dict):
        if tag is None:
            return {key: evaluate(child) for key, child in value.items()}
        key = evaluate(value["key"]) if "key" in value else None
        return Opaque(tag, key if isinstance(key, str) else None)
    if tag is None or tag in ("!expanduser", "!abspath", f"{_STANDARD}str", "!"):
        return value  # the home folder and the working folder are those of another machine
    if tag.startswith(_STANDARD):
        return _standard(node)
    return Opaque(tag)


def _standard(node: Node) -> Any:
    tag = str(node.tag).removeprefix(_STANDARD)
    if tag not in ("int", "float", "bool", "null"):
        return Opaque(f"!!{tag}")
    try:
        return resolve(str(node.value))
    except ScalarError as problem:
        raise SpecError.of("KD107", str(problem), span=node.span) from None


def _of_list(tag: str, items: list[Any], node: Node) -> Any:
    plain = all(i is None or isinstance(i, str | int | float) for i in items)
    if tag in ("!join", "!pathjoin") and plain and items:
        texts = [str(i) for i in items]
        if sum(map(len, texts)) + len(texts) > MAX_TEXT:
            raise too_long(node.span)
        return "".join(texts) if tag == "!join" else posixpath.join(*texts)
    if tag == "!getattr" and len(items) == 2 and isinstance(items[0], Opaque):
        return Opaque(tag, f"{items[0].name}.{items[1]}")
    return Opaque(tag)


def too_long(span: Span | None) -> SpecError:
    message = f"a value of more than {MAX_TEXT:,} characters: this is no configuration"
    return SpecError([Diagnostic("KD102", message, span)])
