"""What an importer is: a file of another tool in, the text of a spec and an account of it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from kdgraph.errors import Diagnostic, Span
from kdgraph.registry import Registry


@dataclass(frozen=True)
class Carried:
    """A part of the file that stands in the spec.

    Attributes:
        where: its dotted path in the file.
        to: what it became, in the words of a spec.
        span: its place in the file.
    """

    where: str
    to: str
    span: Span | None = None

    def as_dict(self) -> dict[str, object]:
        """The same for ``--format json``."""
        return {"where": self.where, "to": self.to, **_place(self.span)}


@dataclass(frozen=True)
class Left:
    """A part of the file that does not stand in the spec, or means something else there.

    Attributes:
        where: its dotted path in the file.
        what: what it is, in short.
        why: the reason, or what to do by hand.
        span: its place in the file.
    """

    where: str
    what: str
    why: str
    span: Span | None = None

    def as_dict(self) -> dict[str, object]:
        """The same for ``--format json``."""
        return {"where": self.where, "what": self.what, "why": self.why, **_place(self.span)}


@dataclass(frozen=True)
class Imported:
    """What became of a file.

    Attributes:
        text: the spec, as YAML with comments.
        carried: every part of the file that stands in it.
        left: every part that does not.
        problems: mistakes in ``text`` itself; empty where it is a spec.
    """

    text: str
    carried: tuple[Carried, ...]
    left: tuple[Left, ...]
    problems: tuple[Diagnostic, ...] = ()


class Importer:
    """Reads one tool's files. Nothing that a file names is imported, called or opened."""

    name: ClassVar[str]

    def read(self, path: str) -> Imported:
        """The spec that a file stands for.

        Raises:
            SpecError: KD1xx; the file cannot be read or is not one of this tool.
        """
        raise NotImplementedError  # every registered importer defines it


IMPORTERS: Registry[type[Any]] = Registry("importer", "kdgraph.importers")


def register_importer(cls: type[Importer]) -> type[Importer]:
    """Makes an importer known under its ``name``."""
    IMPORTERS.add(cls.name, cls)
    return cls


def _place(span: Span | None) -> dict[str, object]:
    return {
        "file": span.file if span else None,
        "line": span.line if span else None,
        "column": span.column if span else None,
    }
