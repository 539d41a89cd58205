"""Pydantic's errors as findings: where in the data, and what was expected there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from kdgraph.spec.tree import MAX_PROBLEMS, NAMED, Key, Keys

# What was expected, by the type of a finding. Types that mean "another kind of value" come
# first: in a union they only say that the value was meant for another member.
_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "null",
}
_BOUNDS = {
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "a number less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
}


@dataclass(frozen=True)
class Finding:
    """One pydantic error: the path in the data, and what of its ``loc`` is not in the data."""

    type: str
    path: Keys
    rest: tuple[Key, ...]  # tags of unions, and the missing key
    depth: int  # where the first tag stood
    message: str
    value: Any
    context: Mapping[str, Any]

    @property
    def is_kind(self) -> bool:
        """Whether the value is of another kind altogether."""
        return self.type in _KINDS or (self.type == "form" and not isinstance(self.value, str))

    @property
    def family(self) -> Literal["kind", "bound", "choice"]:
        """What sort of mistake an ``expected`` finding is."""
        if self.type in ("literal_error", "enum"):
            return "choice"
        return "bound" if self.type in _BOUNDS else "kind"

    @property
    def expected(self) -> str | None:
        """What belongs after "expected", if the finding can be said that way."""
        if self.type == "form":
            return self.message
        words = _KINDS.get(self.type) or _BOUNDS.get(self.type)
        if words is None:
            return None
        context = {k: f"{v:g}" if isinstance(v, float) else v for k, v in self.context.items()}
        text = words.format(**context)
        return text[:-1] if text.endswith(" 1 items") else text


def without_broken(
    error: ValidationError, data: dict[str, Any]
) -> tuple[dict[str, Any], set[tuple[Key, Key]]]:
    """The data without what has errors, and the (section, name) of the entries left out."""
    paths = [_locate(e, data).path for e in error.errors(include_url=False)]
    broken: set[tuple[Key, Key]] = {(p[0], p[1]) for p in paths if len(p) > 1 and p[0] in NAMED}
    dropped = {p[0] for p in paths if p and (len(p) == 1 or p[0] not in NAMED)}
    sound: dict[str, Any] = {}
    for section, entries in data.items():
        if section in NAMED and isinstance(entries, dict):
            sound[section] = {k: v for k, v in entries.items() if (section, k) not in broken}
        elif section not in dropped:
            sound[section] = entries
    return sound, broken


def findings(error: ValidationError, data: Any) -> list[Finding]:
    """The errors, located in ``data``; of a union only the members that were meant."""
    errors = error.errors(include_url=False)[
        : 4 * MAX_PROBLEMS
    ]  # a union gives several for one value
    found = [_locate(e, data) for e in errors]
    return _one_per_union([f for f in found if not _counts_errors(f)])


def _counts_errors(f: Finding) -> bool:
    """Whether a collection only seems too short, because items with errors were not counted."""
    if f.type != "too_short" or not isinstance(f.value, list | dict):
        return False
    return bool(len(f.value) >= f.context["min_length"])


def _locate(error: Any, data: Any) -> Finding:
    path: list[Key] = []
    rest: list[Key] = []
    depth = len(error["loc"])
    for part in error["loc"]:
        inside = part in data if isinstance(data, dict) else (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )  # fmt: skip
        if inside:
            data = data[part]
            path.append(part)
        else:
            depth = min(depth, len(path))
            rest.append(part)
    message = str(error["msg"])
    if error["type"] in ("value_error", "assertion_error"):
        message = str(error["ctx"]["error"])
    return Finding(
        error["type"], tuple(path), tuple(rest), depth, message, data, error.get("ctx", {})
    )


def _one_per_union(found: list[Finding]) -> list[Finding]:
    """Of a union keeps the member that the value was meant for, where that shows."""
    kept = []
    for f in found:
        tags = f.rest[:-1] if f.type == "missing" else [r for r in f.rest if r != "[key]"]
        if tags and f.is_kind and len(f.path) == f.depth:
            others = [o for o in found if o.path[: f.depth] == f.path and o.rest[:1] != f.rest[:1]]
            if any((not o.is_kind and o.type != "form") or len(o.path) > f.depth for o in others):
                continue
        kept.append(f)
    return kept


def by_place(found: Iterable[Finding]) -> list[list[Finding]]:
    """Findings that say "expected" of the same value come together, as "expected a or b"."""
    groups: dict[object, list[Finding]] = {}
    for at, f in enumerate(found):
        together = f.expected is not None and "[key]" not in f.rest
        groups.setdefault(f.path if together else at, []).append(f)
    return list(groups.values())
