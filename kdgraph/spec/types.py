"""Kinds of values that the language is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

_BUILT_IN = frozenset(get_args(core_schema.ErrorType))


@dataclass(frozen=True)
class Form:
    """Text of a form: the pattern it fits whole, and words for it after "expected"."""

    pattern: str
    words: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        text = core_schema.str_schema(pattern=rf"^(?:{self.pattern})$", strict=True)
        return core_schema.custom_error_schema(
            text, custom_error_type="form", custom_error_message=self.words
        )


SIDES = ("student", "teacher")  # of a link
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
Name = Annotated[str, Form(NAME.pattern, "a name (letters, digits and _)")]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
LARGEST = 2**31 - 1  # of a whole number that counts something
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
DOCUMENTED = ConfigDict(use_attribute_docstrings=True)  # of a model whose keys have docstrings


class Strict(BaseModel):
    """Base of every part of the language: frozen, no unknown keys, no silent conversion."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=False,
        ignored_types=(property,),
        protected_namespaces=(),
    )

    @model_validator(mode="wrap")
    @classmethod
    def _name_known_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Lets an unknown key say which keys there are, for the near match."""
        try:
            return handler(data)
        except ValidationError as error:
            found = error.errors(include_url=False)
            if not any(_is_unknown_key(e) for e in found):
                raise
            raise ValidationError.from_exception_data(
                cls.__name__, [_again(e, list(cls.model_fields)) for e in found]
            ) from None


def _is_unknown_key(error: Any) -> bool:
    return error["type"] == "extra_forbidden" and len(error["loc"]) == 1


def _again(error: Any, known: list[str]) -> InitErrorDetails:
    """The same error once more, or one that knows the valid keys."""
    kind: str | PydanticCustomError = error["type"]
    if _is_unknown_key(error):
        kind = PydanticCustomError("unknown_key", "unknown key", {"known": known})
    elif kind not in _BUILT_IN:
        kind = PydanticCustomError(error["type"], error["msg"], error.get("ctx"))
    return InitErrorDetails(
        type=kind, loc=error["loc"], input=error["input"], ctx=error.get("ctx", {})
    )
