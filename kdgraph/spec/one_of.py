"""A place in a spec where any entry of a registry may stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from kdgraph.registry import Registry
from kdgraph.spec.entry import Entry


class OneOf:
    """Any entry of a registry, told apart by its ``use`` key.

    Looks entries up when a spec is read, so that a late registration counts. With ``short``
    the name alone stands for ``{use: name}``; with ``many`` a list stands for
    ``{use: many, of: list}``.
    """

    def __init__(
        self, registry: Registry[type[Any]], *, short: bool = False, many: str | None = None
    ) -> None:
        self.registry = registry
        self.short = short
        self.many = many

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._pick)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        entries = self.registry.items()
        if not entries:
            return {"type": "object", "required": ["use"]}
        choices = [
            cls.__get_pydantic_json_schema__(cls.__pydantic_core_schema__, handler)
            for _, cls in entries
        ]
        if self.short:
            bare = [
                n for n, c in entries if not any(f.is_required() for f in c.model_fields.values())
            ]
            choices.append({"enum": bare})
        if self.many:
            choices.append({"type": "array", "items": {"anyOf": list(choices)}, "minItems": 1})
        return {"anyOf": choices}

    def _pick(self, value: object) -> object:
        if isinstance(value, Entry):
            return value
        if self.short and isinstance(value, str):
            value = {"use": value}
        if self.many and isinstance(value, list | tuple):
            value = {"use": self.many, "of": value}
        if not isinstance(value, Mapping):
            raise PydanticCustomError("form", "a name or a mapping" if self.short else "a mapping")
        name = value.get("use")
        told = {"kind": self.registry.kind, "listing": self.registry.listing}
        if name is None:
            raise PydanticCustomError("no_use", "missing key 'use'", told)
        known = self.registry.names()
        if not known:
            return dict(value)  # nothing to check against: this part of the vocabulary is to come
        if name not in known:
            raise PydanticCustomError("unknown_use", "unknown name", {**told, "known": known})
        return self.registry.get(name).model_validate(value)
