"""What kdgraph says when something is wrong, and where.

KDGraphError          anything a user can cause; carries one or more diagnostics
├── SpecError         the YAML text or its meaning (KD1xx, KD2xx, KD3xx)
├── ModelError        a model cannot be built or its weights do not fit (KD41x)
├── CaptureError      a model cannot be captured, or a tap cannot be read (KD40x)
├── ActionError       an action cannot be done to a model (KD75x)
├── BookError         teacher knowledge on disk is not what is asked for (KD76x)
├── ExportError       a student cannot be written to a file of some format (KD78x)
├── DataError         a data set cannot be had or does not fit the spec (KD71x)
└── InputError        a batch handed to the compiled module is wrong (KD70x)
PassError             a rewrite broke the graph: our bug, never the user's (KD5xx)

KD6xx are warnings about what is right but unwise (``kdgraph list advice``); nothing raises them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Span:
    """A place in a spec: 1-based line and column, and the text of that line."""

    file: str
    line: int
    column: int
    length: int = 1
    excerpt: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Diagnostic:
    """One finding: a stable code, what is wrong, where, and what would help."""

    code: str
    message: str
    span: Span | None = None
    help: str | None = None
    severity: Severity = "error"

    def as_dict(self) -> dict[str, object]:
        """The same facts for ``--format json``."""
        place = self.span
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "file": place.file if place else None,
            "line": place.line if place else None,
            "column": place.column if place else None,
            "help": self.help,
        }

    def __str__(self) -> str:
        head = f"{self.severity}[{self.code}]: {self.message}"
        if self.span is None:
            return head if self.help is None else f"{head}\n   help: {self.help}"
        lines = [f"{self.span}: {head}"]
        if self.span.excerpt:
            number = f"{self.span.line:>5}"
            excerpt, caret = _window(self.span)
            lines += [f"{number} | {excerpt}", f"{' ' * len(number)} | {caret}"]
        if self.help is not None:
            lines.append(f"   help: {self.help}")
        return "\n".join(lines)


def _window(span: Span, width: int = 120) -> tuple[str, str]:
    """The excerpt and its caret line; a very long line is cut around the place.

    Control characters are shown as a blank, so that hostile text cannot steer a terminal.
    """
    text = "".join(c if c.isprintable() else " " for c in span.excerpt)
    at = span.column - 1
    start = max(0, at - width // 2) if len(text) > width else 0
    text = text[start : start + width]
    at -= start
    carets = max(1, min(span.length, len(text) - at))
    return text.rstrip(), " " * at + "^" * carets


class KDGraphError(Exception):
    """A mistake in what the user gave; ``diagnostics`` lists every one that was found."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(str(d) for d in self.diagnostics))

    @classmethod
    def of(
        cls, code: str, message: str, *, span: Span | None = None, help: str | None = None
    ) -> Self:
        """An error with a single diagnostic."""
        return cls([Diagnostic(code, message, span, help)])


class SpecError(KDGraphError):
    """The spec is not readable, or says something that cannot be."""


class ModelError(KDGraphError):
    """A model cannot be built, or its weights do not fit it."""


class CaptureError(KDGraphError):
    """A model cannot be captured, or a tap cannot be read from it."""


class DataError(KDGraphError):
    """A data set cannot be had, or does not fit the spec."""


class ActionError(KDGraphError):
    """What a stage would do to a model cannot be done to it."""


class ExportError(KDGraphError):
    """A trained student cannot be written to a file, or the file is not the student."""


class BookError(KDGraphError):
    """A book of teacher knowledge is stale, foreign or damaged, or cannot be written."""


class InputError(KDGraphError):
    """A batch handed to the compiled module is not what the spec says."""


class PassError(Exception):
    """A pass broke the graph. Names the pass and the ones that ran before it."""


def near(name: str, choices: Iterable[str]) -> str | None:
    """A "did you mean" for a name that is not among ``choices``, or None.

    A second choice is named only where it is about as near as the first.
    """
    found = difflib.get_close_matches(name, list(choices), n=2, cutoff=0.6)
    if len(found) == 2 and _likeness(name, found[1]) < _likeness(name, found[0]) - 0.1:
        del found[1]
    return f"did you mean {' or '.join(repr(f) for f in found)}?" if found else None


def _likeness(name: str, choice: str) -> float:
    """From 0 to 1, in the order of arguments that ``get_close_matches`` uses."""
    return difflib.SequenceMatcher(None, choice, name).ratio()
