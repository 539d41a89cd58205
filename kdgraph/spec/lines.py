"""The lines of one text, and places in it."""

from __future__ import annotations

import re

from kdgraph.errors import Span

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


class Lines:
    """Gives spans by the 0-based line and column that the YAML parser counts.

    ``shift`` moves every place: a value on the command line starts after its path.
    """

    def __init__(self, file: str, text: str, *, shift: tuple[int, int, str] | None = None) -> None:
        self.file = file
        self._lines = _BREAK.split(text)
        self._shift = shift

    def span(self, line: int, column: int, length: int = 1) -> Span:
        """The place at a line and column."""
        if self._shift is not None:
            number, start, whole = self._shift
            return Span(self.file, number, start + (column if line == 0 else 0) + 1, length, whole)
        excerpt = self._lines[line] if line < len(self._lines) else ""
        length = max(1, min(length, len(excerpt) - column))
        return Span(self.file, line + 1, column + 1, length, excerpt)

    def after(self, before: str) -> Span:
        """The place that follows ``before``, the start of this text."""
        lines = _BREAK.split(before)
        return self.span(len(lines) - 1, len(lines[-1]))
