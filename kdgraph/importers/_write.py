"""The text of a draft: YAML as people write it, one entry a line where it fits."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from kdgraph.importers._draft import Draft, Line
from kdgraph.spec.scalars import ScalarError, resolve

_WIDTH = 99
_BREAKS = "\x85\u2028\u2029"  # which YAML takes for ends of a line, and JSON does not
_PLAIN = re.compile(r"[A-Za-z_.~/][A-Za-z0-9_.~/+-]*", re.ASCII)


def spec_text(draft: Draft) -> str:
    """The whole spec."""
    parts = [_comments(draft.header), ["", "kdgraph: 1", f"name: {_scalar(draft.name)}"]]
    models = {n: Line(m.as_value(), m.remarks) for n, m in draft.models.items()}
    sections = {
        "batch": draft.batch, "models": models, "links": draft.links, "signals": draft.signals,
        "losses": draft.losses,
    }  # fmt: skip
    for name, entries in sections.items():
        told = draft.missing.get(name, [])
        if entries or told:
            parts.append(_section(name, entries, told))
    if draft.stages or draft.missing.get("stages"):
        parts.append(_stages(draft))
    for name, line in (("data", draft.data), ("train", draft.train)):
        if line is not None or draft.missing.get(name):
            parts.append(["", *_comments(draft.missing.get(name, []))])
        if line is not None:
            parts.append([*_comments(line.remarks), *_entry(name, line.value, 0, open=True)])
    return "\n".join(row for part in parts for row in part) + "\n"


def _section(name: str, entries: Mapping[str, Line], told: Iterable[str]) -> list[str]:
    rows = ["", f"{name}:" if entries else f"# {name}:"]
    for key, line in entries.items():
        rows += _comments(line.remarks, 2)
        rows += _entry(key, line.value, 2, open=name == "models")
    return rows + _comments(told, 2)


def _stages(draft: Draft) -> list[str]:
    rows = ["", "stages:" if draft.stages else "# stages:"]
    for line in draft.stages:
        rows += _comments(line.remarks, 2)
        inner = [row for key, value in line.value.items() for row in _entry(key, value, 4)]
        rows += [f"  - {inner[0].lstrip()}", *inner[1:]]
    return rows + _comments(draft.missing.get("stages", []), 2)


def _entry(key: str, value: Any, indent: int, *, open: bool = False) -> list[str]:
    """``key: value``; a mapping is in braces where that fits one line and ``open`` is not set."""
    pad = " " * indent
    row = f"{pad}{_scalar(key)}: {flow(value)}"
    if not isinstance(value, dict | list) or not value or (len(row) <= _WIDTH and not open):
        return [row]
    if isinstance(value, dict):
        inner = [r for k, v in value.items() for r in _entry(k, v, indent + 2)]
    else:
        inner = [f"{pad}  - {flow(v)}" for v in value]
    return [f"{pad}{_scalar(key)}:", *inner]


def flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(v) for v in value) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and _is_text(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(f"\\u{ord(c):04x}" if c in _BREAKS else c for c in quoted)


def _is_text(text: str) -> bool:
    """Whether text without quotes is read as that text."""
    try:
        return resolve(text) == text
    except ScalarError:
        return False


def _comments(lines: Iterable[str], indent: int = 0) -> list[str]:
    """Comment rows. Words of the file stand in them, so that no break may get through."""
    pad = " " * indent + "# "
    rows: list[str] = []
    for line in lines:
        words = " ".join(line.split())
        rows += textwrap.wrap(
            words, _WIDTH, initial_indent=pad, subsequent_indent=pad + "  ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return rows
