"""The building blocks of the language: what a loss, signal, adapter, ... may have as keys.

An entry is a frozen pydantic model; its fields are the keys a spec may write. Two marks
carry meaning beyond a type: ``Ref`` (a tensor, by reference) and ``Steer`` (a number that
may move: a constant, a schedule, or the name of a signal).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from kdgraph.registry import Registry
from kdgraph.spec.steer import SteerMark, Weight
from kdgraph.spec.types import NAME, SIDES, Count, Form, Name, Strict, Whole


@dataclass(frozen=True)
class RefMark:
    """Marks a field that names a tensor: ``model.tap``, ``link.side``, a signal, a batch entry."""


_REFERENCE = Form(rf"{NAME.pattern}(\.{NAME.pattern})?", "a reference, NAME or MODEL.TAP")
Ref = Annotated[str, RefMark(), _REFERENCE]
Refs = Annotated[
    tuple[Annotated[str, _REFERENCE], ...], RefMark(), Field(min_length=1, strict=False)
]


@dataclass(frozen=True)
class ModelMark:
    """Marks a field of an action that names a model of the spec."""


@dataclass(frozen=True)
class PathsMark:
    """Marks a field of an action that names modules by pattern: ``student.layer1.*``.

    Attributes:
        read: they are only looked at, and it is others that the action changes.
    """

    read: bool = False


ModelName = Annotated[str, ModelMark(), Form(NAME.pattern, "the name of a model")]
_PATTERN = Form(rf"{NAME.pattern}(\..+)?", "MODEL, or MODEL.PATTERN such as student.layer1.*")
_Paths = Annotated[
    tuple[Annotated[str, _PATTERN], ...],
    BeforeValidator(
        lambda v: (v,) if isinstance(v, str) else v, json_schema_input_type=str | list[str]
    ),
    Field(min_length=1, strict=False),
]
Paths = Annotated[_Paths, PathsMark()]
ReadPaths = Annotated[_Paths, PathsMark(read=True)]


class Entry(Strict):
    """Something picked from a registry by its ``use`` key."""

    use: str

    @classmethod
    def ref_fields(cls) -> list[str]:
        """Names of the fields that hold tensor references."""
        return [n for n, f in cls.model_fields.items() if _marked(f, RefMark)]

    @classmethod
    def steer_fields(cls) -> list[str]:
        """Names of the fields that hold steered numbers."""
        return [n for n, f in cls.model_fields.items() if _marked(f, SteerMark)]

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema of this entry, known by the name it is picked by."""
        entry = handler.resolve_ref_schema(handler(schema))
        if isinstance(cls.model_fields["use"].default, str):
            entry["title"] = use_name(cls)
            entry["required"] = ["use", *(k for k in entry.get("required", []) if k != "use")]
        return entry

    def references(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Every tensor reference with its path inside this entry."""
        for field in self.ref_fields():
            value = getattr(self, field)
            if isinstance(value, str):
                yield (field,), value
            elif value is not None:
                yield from (((field, i), ref) for i, ref in enumerate(value))
        for field in self.steer_fields():
            value = getattr(self, field)
            if isinstance(value, str):
                yield (field,), value


def _marked(field: Any, mark: type | tuple[type, ...]) -> bool:
    """Whether a field carries a mark, directly or inside ``X | None``."""
    if any(isinstance(m, mark) for m in field.metadata):
        return True
    inner = getattr(field.annotation, "__args__", ())
    return any(isinstance(m, mark) for a in inner for m in getattr(a, "__metadata__", ()))


def _reads(field: Any) -> bool:
    """Whether a field names modules that are only looked at."""
    inner = getattr(field.annotation, "__args__", ())
    marks = [*field.metadata, *(m for a in inner for m in getattr(a, "__metadata__", ()))]
    return any(isinstance(m, PathsMark) and m.read for m in marks)


LOSSES: Registry[type[Any]] = Registry("loss", "kdgraph.losses")
SIGNALS: Registry[type[Any]] = Registry("signal", "kdgraph.signals")
ADAPTERS: Registry[type[Any]] = Registry("adapter", "kdgraph.adapters")
ACTIONS: Registry[type[Any]] = Registry("action", "kdgraph.actions")


class LossEntry(Entry):
    """A loss edge: tensors in, one scalar out, times ``weight`` into the total.

    ``link: NAME`` stands for ``student: NAME.student, teacher: NAME.teacher``. With ``kernel:
    reference`` no GPU kernel computes it, whatever device it is on. Where several processes share
    a batch, ``scope: global`` means the loss of the whole batch, and ``scope: rank`` the mean of
    the losses of their parts.
    """

    weight: Weight = 1.0
    link: Name | None = None
    kernel: Literal["auto", "reference"] = "auto"
    scope: Literal["global", "rank"] = "global"

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        entry = super().__get_pydantic_json_schema__(schema, handler)
        sides = _sides(cls)
        if len(sides) < 2:
            entry["properties"].pop("link", None)
            return entry
        needed = [k for k in entry.get("required", []) if k in sides]
        entry["required"] = [k for k in entry.get("required", []) if k not in sides]
        entry["if"] = {"properties": {"link": {"type": "string"}}, "required": ["link"]}
        entry["then"] = {"properties": dict.fromkeys(sides, False)}
        entry["else"] = {"required": needed}
        return entry

    @model_validator(mode="before")
    @classmethod
    def _expand_link(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("link"), str):
            return data
        sides = _sides(cls)
        if len(sides) < 2:
            raise PydanticCustomError(
                "link_unused", "'{use}' does not read a link", {"use": use_name(cls)}
            )
        for side in sides:
            if side in data:
                raise PydanticCustomError(
                    "link_and_side", "give either 'link' or '{side}', not both", {"side": side}
                )
        return {**data, **{side: f"{data['link']}.{side}" for side in sides}}


def _sides(cls: type[LossEntry]) -> list[str]:
    """The fields that a link stands for."""
    return [s for s in SIDES if s in cls.model_fields]


class SignalEntry(Entry):
    """A derived tensor: a target, a mask, a weight, a temperature.

    ``teaches`` says that it stands for a teacher, so that a student alone does without it.
    """

    teaches: ClassVar[bool] = False

    def by_row(self) -> bool:
        """Whether each row of the result depends on the same row of what is read, and no other."""
        return True


class AdapterEntry(Entry):
    """What makes a student tensor fit a teacher tensor; trained with the student."""


class ActionEntry(Entry):
    """What is done to a model between stages, on a schedule or on a metric.

    The keys below say when, and have a meaning only under ``during`` of a stage.

    Attributes:
        every: after each so many epochs of the stage; left out, with no ``when``: after each.
        start: not before so many epochs of the stage are done.
        when: ``best``: whenever the monitored metric is better than before in this stage.
    """

    every: Count | None = None
    start: Whole = 0
    when: Literal["best"] | None = None

    @classmethod
    def model_fields_named(cls) -> list[str]:
        """Names of the fields that hold a model of the spec, or patterns that start with one."""
        return [n for n, f in cls.model_fields.items() if _marked(f, (ModelMark, PathsMark))]

    @classmethod
    def read_fields(cls) -> list[str]:
        """Those of them that name modules which are only looked at."""
        return [n for n in cls.model_fields_named() if _reads(cls.model_fields[n])]

    def due(self, epochs: int, best: bool) -> bool:
        """Whether it is time, once ``epochs`` of the stage are done."""
        if epochs < self.start or (self.when == "best" and not best):
            return False
        return (epochs - self.start) % self.every == 0 if self.every else True


E = TypeVar("E", bound=Entry)


def use_name(cls: type[Entry]) -> str:
    """The name a spec picks an entry by: the default of its ``use`` field."""
    return str(cls.model_fields["use"].default)


def register_loss(cls: type[E]) -> type[E]:
    """Makes a loss known under its ``use`` name."""
    return LOSSES.add(use_name(cls), cls)


def register_signal(cls: type[E]) -> type[E]:
    """Makes a signal known under its ``use`` name."""
    return SIGNALS.add(use_name(cls), cls)


def register_adapter(cls: type[E]) -> type[E]:
    """Makes an adapter known under its ``use`` name."""
    return ADAPTERS.add(use_name(cls), cls)


def register_action(cls: type[E]) -> type[E]:
    """Makes an action known under its ``use`` name."""
    return ACTIONS.add(use_name(cls), cls)
