"""What is wrong with the structure of a spec, at the key or value it is about."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import core_schema

from kdgraph.errors import Diagnostic, near
from kdgraph.spec.findings import Finding, by_place, findings
from kdgraph.spec.scalars import ScalarError, resolve
from kdgraph.spec.tree import Key, Keys, Places, at_most, dotted
from kdgraph.spec.types import NAME, SIDES

# What people write, from papers and other tools, and the key that it is called here.
_SYNONYMS = {
    "temperature": "tau",
    "temp": "tau",
    "T": "tau",
    "alpha": "weight",
    "lambda": "weight",
    "type": "use",
    "kind": "use",
    "name": "use",
    "path": "taps",
    "layers": "taps",
    "checkpoint": "weights",
    "model": "source",
    "rank": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "targets",
    "init_from": "start_from",
}
_FOREIGN = frozenset(get_args(core_schema.ErrorType)) - {"value_error", "assertion_error"}


def explain(error: ValidationError, data: Any, places: Places) -> list[Diagnostic]:
    """Every mistake that pydantic found, in our words; an unknown key hides the one it means."""
    found = findings(error, data)
    meant = {(f.path[:-1], _meant(f, data)) for f in found if f.type == "unknown_key"}
    # a link stands for both sides
    meant |= {(path, side) for path, key in meant if key == "link" for side in SIDES}
    return at_most(
        _say(group, data, places)
        for group in by_place(found)
        if not (group[0].type == "missing" and (group[0].path, group[0].rest[-1]) in meant)
    )


def _say(group: list[Finding], data: Any, places: Places) -> Diagnostic:
    f = group[0]
    if "[key]" in f.rest:
        key = f.path[-1]
        message = f"{_in(f.path[:-1])}{shown(key)} is not {f.expected or 'a valid key'}"
        help = f"write {as_name(key)}" if NAME.fullmatch(as_name(key)) else None
        return Diagnostic("KD116", message, places.key(f.path), help)
    if f.expected is not None:
        return _expected(group, places)
    if (special := _SPECIAL.get(f.type)) is not None:
        return special(f, data, places)
    # an entry's own rule, or a type of error that nothing here knows: never in foreign words
    message = f"{shown(f.value)} is not allowed here" if f.type in _FOREIGN else f.message
    return Diagnostic("KD115", f"{_in(f.path)}{message}", places.value(f.path))


def _expected(group: list[Finding], places: Places) -> Diagnostic:
    f = group[0]
    wanted = list(dict.fromkeys(str(g.expected) for g in group))
    message = f"{_in(f.path)}expected {' or '.join(wanted)}, got {_got(f)}"
    code = {"kind": "KD112", "bound": "KD113", "choice": "KD114"}[f.family]
    return Diagnostic(code, message, places.value(f.path), _value_help(f, " ".join(wanted)))


def _value_help(f: Finding, wanted: str) -> str | None:
    """What to write instead, where the value shows what was meant."""
    if f.family == "choice" and isinstance(f.value, str):
        choices = str(f.context["expected"]).replace(" or ", ", ").split(", ")
        if f.value in choices:  # those that are text stand there in quotes
            return "leave the quotes out"
        return near(f.value, [c.strip("'") for c in choices])
    if not isinstance(f.value, str):
        is_scalar = isinstance(f.value, bool | int | float)
        return "put it in quotes" if is_scalar and wanted == "text" else None
    if "true or false" in wanted and f.value.lower() in ("yes", "no", "on", "off"):
        return "write true or false; yes, no, on and off are text"
    if "number" in wanted and _is_number(f.value):
        return "leave the quotes out"
    return None


def _is_number(text: str) -> bool:
    try:
        value = resolve(text)
    except ScalarError:
        return False
    return isinstance(value, int | float) and not isinstance(value, bool)


def _missing(f: Finding, data: Any, places: Places) -> Diagnostic:
    key = f.rest[-1]
    if isinstance(key, int):
        message = f"{_in(f.path)}the list is too short, item {key + 1} is missing"
        return Diagnostic("KD113", message, places.value(f.path))
    return Diagnostic("KD111", f"{_in(f.path)}missing key {key!r}", places.value(f.path))


def _no_use(f: Finding, data: Any, places: Places) -> Diagnostic:
    for key in f.value:
        if near(str(key), ["use"]) or _SYNONYMS.get(str(key)) == "use":
            message = f"{_in(f.path)}unknown key {shown(key)}"
            return Diagnostic("KD110", message, places.key((*f.path, key)), "did you mean 'use'?")
    help = _shows(f.context["listing"])
    if (meant := _inherited(f.path, data, places)) is not None:
        help = f"{meant} {help}"
    return Diagnostic("KD111", f"{_in(f.path)}missing key 'use'", places.value(f.path), help)


def _inherited(path: Keys, data: Any, places: Places) -> str | None:
    """The near match of an entry among those that another file wrote: a name mistyped there."""
    here = places.key(path)
    if len(path) != 2 or here is None:
        return None
    written = {str(name): places.key((path[0], name)) for name in data[path[0]]}
    return near(str(path[-1]), [n for n, at in written.items() if at and at.file != here.file])


def _unknown_key(f: Finding, data: Any, places: Places) -> Diagnostic:
    free, known, name = _free(f, data), f.context["known"], str(f.path[-1])
    rest = f"it may also have {', '.join(free)}" if free else None
    help = _synonym(name, known) or near(name, free) or near(name, known) or rest
    message = f"{_in(f.path[:-1])}unknown key {shown(f.path[-1])}"
    return Diagnostic("KD110", message, places.key(f.path), help)


def _unknown_use(f: Finding, data: Any, places: Places) -> Diagnostic:
    kind = f.context["kind"]
    name = f.value["use"] if isinstance(f.value, dict) else f.value
    path = (*f.path, "use") if isinstance(f.value, dict) else f.path
    listing = _shows(f.context["listing"])
    if not isinstance(name, str):
        message = f"{_in(path)}expected the name of a {kind}, got {shown(name)}"
        return Diagnostic("KD112", message, places.value(path), listing)
    meant = near(name, f.context["known"])
    help = f"{meant} {listing}" if meant else listing
    return Diagnostic("KD201", f"unknown {kind} {shown(name)}", places.value(path), help)


def _unknown_schedule(f: Finding, data: Any, places: Places) -> Diagnostic:
    for key in f.value:
        if (meant := near(str(key), f.context["known"])) is not None:
            message = f"unknown schedule {shown(key)}"
            return Diagnostic("KD201", message, places.key((*f.path, key)), meant)
    message = f"{_in(f.path)}expected a number, a schedule or the name of a signal, got a mapping"
    return Diagnostic("KD112", message, places.value(f.path), _shows(f.context["listing"]))


def _union_tag(f: Finding, data: Any, places: Places) -> Diagnostic:
    """A tagged union of pydantic's own: its discriminator names a key of the mapping."""
    key = str(f.context["discriminator"]).strip("'")
    if "tag" not in f.context:
        return Diagnostic("KD111", f"{_in(f.path)}missing key {key!r}", places.value(f.path))
    known = [t.strip("' ") for t in str(f.context["expected_tags"]).split(",")]
    message = f"{_in((*f.path, key))}unknown name {shown(f.context['tag'])}"
    help = near(str(f.context["tag"]), known) or f"there are {', '.join(known)}"
    return Diagnostic("KD201", message, places.value((*f.path, key)), help)


_SPECIAL: dict[str, Callable[[Finding, Any, Places], Diagnostic]] = {
    "missing": _missing,
    "no_use": _no_use,
    "unknown_key": _unknown_key,
    "unknown_use": _unknown_use,
    "unknown_schedule": _unknown_schedule,
    "union_tag_invalid": _union_tag,
    "union_tag_not_found": _union_tag,
}


def _free(f: Finding, data: Any) -> list[str]:
    """The keys that could stand where an unknown key stands."""
    written = data
    for key in f.path[:-1]:
        written = written[key]
    own = ["extends"] if len(f.path) == 1 else []
    return [k for k in [*f.context["known"], *own] if k not in written]


def _meant(f: Finding, data: Any) -> str | None:
    """The key that an unknown key was meant to be."""
    free, name = _free(f, data), str(f.path[-1])
    if (called := _SYNONYMS.get(name)) in free:
        return called
    return next(iter(difflib.get_close_matches(name, free, n=1)), None)


def _synonym(name: str, known: list[str]) -> str | None:
    called = _SYNONYMS.get(name)
    return f"did you mean {called!r}?" if called in known else None


def _shows(listing: str) -> str:
    return f"{listing} shows what there is"


def as_name(key: Key) -> str:
    """A key as the name it could be: ``mid_level`` for ``mid-level``."""
    return re.sub(r"\W", "_", str(key))


def _in(path: Keys) -> str:
    return f"{dotted(path)}: " if path else ""


def _got(f: Finding) -> str:
    size = f.context.get("actual_length")
    return shown(f.value) if size is None or isinstance(f.value, str) else str(size)


def shown(value: object) -> str:
    """A value in a message: short, and never a control character."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
