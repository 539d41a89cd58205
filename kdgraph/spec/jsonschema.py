"""The language as a JSON Schema (draft 2020-12), for editors: from the classes that check it."""

from __future__ import annotations

import json
from typing import Any

from kdgraph.spec.language import Spec

_EXTENDS = {
    "description": "Other specs, by path from this file, that this one is written on top of.",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}},
    ],
}


def json_schema() -> dict[str, Any]:
    """The schema of a whole spec, and of one that only says what differs from another.

    It accepts what the reader accepts. What no schema can say (references, cycles, an integer
    against 3.0, the rules between the keys of a schedule) only the reader checks.
    """
    whole = Spec.model_json_schema()
    definitions: dict[str, Any] = {}
    for name, value in whole.pop("$defs", {}).items():
        definitions[name] = _tidy(value, definitions, keep=True)
    whole = _tidy(whole, definitions, keep=True)
    part = _partial({**whole, "properties": {**whole["properties"], "extends": _EXTENDS}})
    used = {f"{name}.part": _partial(value) for name, value in definitions.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kdgraph spec",
        "description": "What to distil, from what, and how.",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": "#/$defs/spec.part"},
        "else": {"$ref": "#/$defs/spec"},
        "$defs": {**definitions, **used, "spec": whole, "spec.part": part},
    }


def _tidy(node: Any, definitions: dict[str, Any], *, keep: bool = False) -> Any:
    """Moves every object into ``$defs`` once, and takes out what only repeats the key."""
    if isinstance(node, list):
        return [_tidy(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    is_object = isinstance(node.get("properties"), dict)
    tidy = {k: _tidy(v, definitions) for k, v in node.items()}
    if isinstance(tidy.get("description"), str):
        tidy["description"] = tidy["description"].replace("``", "`")
    if isinstance(tidy.get("title"), str) and not is_object:
        del tidy["title"]  # the key again, in capitals
    if "patternProperties" in tidy:
        tidy["additionalProperties"] = False
    if not is_object or keep or "title" not in tidy:
        return tidy
    return {"$ref": f"#/$defs/{_define(tidy, definitions)}"}


def _define(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The name of ``schema`` among the definitions; two things may have the same title."""
    title, number = schema["title"], 1
    name, text = title, json.dumps(schema, sort_keys=True)
    while name in definitions and json.dumps(definitions[name], sort_keys=True) != text:
        number += 1
        name = f"{title}_{number}"
    definitions[name] = schema
    return str(name)


def _partial(node: Any) -> Any:
    """A schema without what is required, and with null, which takes an inherited key away."""
    if isinstance(node, list):
        return [_partial(item) for item in node]
    if not isinstance(node, dict):
        return node
    loose: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "patternProperties") and isinstance(value, dict):
            loose[key] = {k: {"anyOf": [_partial(v), {"type": "null"}]} for k, v in value.items()}
        elif key == "$ref":
            loose[key] = f"{value}.part"
        elif key not in ("required", "minProperties", "if", "then", "else"):
            loose[key] = _partial(value)
    return loose
