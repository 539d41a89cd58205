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
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

# letters of other scripts that look like those of ASCII, in the same order
_ALIKE = str.maketrans(
    "аеорсухѕіјӏһԁԛԝАВЕЅІЈКМНОРСТУХαικνορυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧօոսհıɑɡ",
    "aeopcyxsijlhdqwABESIJKMHOPCTYXaikvopuxABEZHIKMNOPTYXonuhiag",
)
_LONGEST, _COMPARED = 80, 8  # letters of a name, and choices, that a near match is looked for in
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
            "message": visible(_cut(self.message)),
            "file": visible(place.file) if place else None,
            "line": place.line if place else None,
            "column": place.column if place else None,
            "help": visible("; ".join(self._helps())) or None,
        }

    def __str__(self) -> str:
        head = f"{self.severity}[{self.code}]: {_cut(self.message)}"
        lines = [head if self.span is None else f"{self.span}: {head}"]
        if self.span is not None and self.span.excerpt:
            number = f"{self.span.line:>5}"
            excerpt, caret = _window(self.span)
            lines += [f"{number} | {excerpt}", f"{' ' * len(number)} | {caret}"]
        lines += [f"   help: {help}" for help in self._helps()]
        return visible("\n".join(lines))

    def _helps(self) -> list[str]:
        """What would help, and what the eye would not find."""
        helps = [*([] if self.help is None else [self.help]), *look_alikes(self.message)]
        return [_cut(text) for text in helps]


def _cut(text: str) -> str:
    """Text that nobody would read to its end, without its middle; tables are shorter."""
    half = 2000
    return text if len(text) <= 2 * half else f"{text[:half]} ... {text[-half:]}"


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


def refuse(found: Iterable[Diagnostic]) -> None:
    """Raises what is an error among the findings, all of it at once.

    Raises:
        SpecError: where there is one.
    """
    if errors := [d for d in found if d.severity == "error"]:
        raise SpecError(errors)


def visible(text: str) -> str:
    """Text that says what is in it: what steers a terminal or shows as nothing is written out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def look_alikes(text: str) -> list[str]:
    """What to know of words that look like others: ``'cat'`` with a Cyrillic ``a``, say."""
    if text.isascii():
        return []
    found: dict[str, str] = {}
    for word in re.findall(r"\w+", text):
        plain = "".join(_plain(c) for c in word)
        if len(word) > 1 and plain != word and plain.isascii():
            odd = next(c for c in word if _plain(c) != c)
            what = f"U+{ord(odd):04X} {unicodedata.name(odd, '')}".rstrip()
            found[word] = f"{word!r} is not {plain!r}: {odd!r} is {what}"
    return list(found.values())


def _plain(letter: str) -> str:
    """The letter of ASCII that another one looks like, or itself."""
    if letter.isascii() or not letter.isalpha():
        return letter
    return unicodedata.normalize("NFKC", letter).translate(_ALIKE)


def near(name: str, choices: Iterable[str]) -> str | None:
    """A "did you mean" for a name that is not among ``choices``, or None.

    A second choice is named only where it is about as near as the first. Names that nobody would
    mistype are not compared, nor all of many that have the same letters: that takes long.
    """
    if len(name) > _LONGEST:
        return None
    quick = difflib.SequenceMatcher(b=name)
    likely: list[tuple[float, str]] = []
    for choice in choices:
        if len(choice) <= _LONGEST:
            quick.set_seq1(choice)
            if quick.real_quick_ratio() >= 0.6 and (most := quick.quick_ratio()) >= 0.6:
                likely.append((most, choice))
    some = [choice for _, choice in sorted(likely, key=lambda c: -c[0])[:_COMPARED]]
    found = difflib.get_close_matches(name, some, n=2, cutoff=0.6)
    if len(found) == 2 and _likeness(name, found[1]) < _likeness(name, found[0]) - 0.1:
        del found[1]
    return f"did you mean {' or '.join(repr(f) for f in found)}?" if found else None


def _likeness(name: str, choice: str) -> float:
    """From 0 to 1, in the order of arguments that ``get_close_matches`` uses."""
    return difflib.SequenceMatcher(None, choice, name).ratio()
