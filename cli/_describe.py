"""What is known about an entry of the language: its words, and the keys it takes."""

from __future__ import annotations

import inspect
import re
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin


def doc(value: Any) -> str:
    """The docstring; that of a pass is its module's first line and its function's."""
    run = getattr(value, "run", None)
    if inspect.isfunction(run):
        module = inspect.getdoc(inspect.getmodule(run)) or ""
        return f"{module.splitlines()[0]}\n\n{inspect.getdoc(run) or ''}" if module else ""
    return inspect.getdoc(value if inspect.isclass(value) else type(value)) or ""


def first_line(value: Any) -> str:
    """The first line of the docstring."""
    return doc(value).partition("\n")[0].replace("``", "`")


_PAPER = re.compile(r"(?:arXiv |\()(\d{4}\.\d{4,5})|(10\.\d{4,}/[^\s),;]+)")


def paper(value: Any) -> str | None:
    """The first paper that the docstring cites: ``arXiv:1503.02531``, ``doi:10.3390/s20164616``."""
    found = _PAPER.search(doc(value))
    if found is None:
        return None
    return f"arXiv:{found[1]}" if found[1] else f"doi:{found[2]}"


def keys(value: Any) -> dict[str, dict[str, Any]]:
    """The keys of an entry: what each takes, and its default; {} for what is no entry."""
    refs = value.ref_fields() if hasattr(value, "ref_fields") else []
    steered = value.steer_fields() if hasattr(value, "steer_fields") else []
    found: dict[str, dict[str, Any]] = {}
    for key, field in getattr(value, "model_fields", {}).items():
        if key == "use":
            continue
        words = _words(field.annotation)
        if key in refs:
            words = "tensors" if words.startswith("tuple") else "tensor"
        elif key in steered:
            words = "number, schedule or signal"
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=True)
        found[key] = {"value": words, "required": required, "default": _plain(default)}
        if field.description:
            found[key]["doc"] = field.description
    return found


def _words(annotation: Any) -> str:
    """``Literal["mean", "sum"]`` as ``mean or sum``; other types as Python writes them."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is Annotated:
        return _words(inner[0])
    if origin in (Union, UnionType):
        return " or ".join(_words(a) for a in inner if a is not NoneType)
    if origin is not None:
        parts = ", ".join(_words(a) for a in inner if a is not ...)
        return f"{origin.__name__} of {parts}"
    return str(getattr(annotation, "__name__", annotation))


def _plain(default: Any) -> Any:
    """A default that JSON can hold."""
    if hasattr(default, "model_dump"):
        return default.model_dump(mode="json")
    return list(default) if isinstance(default, tuple | set | frozenset) else default


def shown(default: object) -> str:
    """A default as a spec would write it."""
    if isinstance(default, bool):
        return str(default).lower()
    return "-" if default is None else str(default)
