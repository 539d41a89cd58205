"""Broken YAML in our own words."""

from __future__ import annotations

import re

import yaml

from kdgraph.errors import Diagnostic
from kdgraph.spec.lines import Lines

# What libyaml and its Python twin say, to what the writer should know. The second half of the
# pair tells whether the mistake is where the parser stopped or where the construct began.
_WORDS = [
    (r"found a tab character", "a tab cannot indent", "here", "indent with spaces"),
    (r"unexpected ':'", "':' needs a space after it", "here", None),
    (r"mapping values are not allowed", "':' is not expected here", "here",
     "put the text in quotes, or check the indentation of this line"),
    (r"block sequence entries|sequence entries are not", "'-' is not expected here", "here",
     "start a list on a line of its own"),
    (r"expected ',' or '\]'", "this '[' is not closed", "start", "add the missing ']' or ','"),
    (r"expected ',' or '}'", "this '{' is not closed", "start", "add the missing '}' or ','"),
    (r"unexpected end of stream", "this quote is not closed", "start", None),
    (r"could not find expected ':'", "a key without ':'", "start", "write `key: value`"),
    (r"unknown escape character", "unknown escape in double quotes", "here",
     "use single quotes to keep backslashes"),
    (r"escape code|escape sequence", "invalid escape in double quotes", "here", None),
    (r"incompatible YAML document", "unknown YAML version", "here", None),
    (r"tag handle|while (parsing|scanning) a tag", "tags are not allowed", "start",
     "put the text in quotes"),
    (r"anchor|alias|alphabetic or numeric", "an anchor needs a name", "start",
     "put text that starts with '&' or '*' in quotes"),
    (r"expected key|expected '-' indicator|<block end>", "this does not fit what is before it",
     "here", "check the indentation and the quotes"),
    (r"node content", "a value is missing here", "here", None),
]  # fmt: skip


def explain(error: yaml.MarkedYAMLError, lines: Lines) -> Diagnostic:
    """One diagnostic for what the parser found."""
    here, start = error.problem_mark, error.context_mark or error.problem_mark
    said = f"{error.problem} {error.context or ''}"
    if "cannot start any token" in said and here is not None:
        return _bad_start(lines, here.line, here.column)
    for pattern, words, place, help in _WORDS:
        if re.search(pattern, said):
            mark = here if place == "here" else start
            span = lines.span(mark.line, mark.column) if mark else None
            return Diagnostic("KD103", words, span, help)
    span = lines.span(here.line, here.column) if here else None
    return Diagnostic("KD103", f"not valid YAML: {error.problem}", span)


def _bad_start(lines: Lines, line: int, column: int) -> Diagnostic:
    span = lines.span(line, column)
    character = span.excerpt[column : column + 1]
    if character == "\t":
        return Diagnostic("KD103", "a tab cannot indent", span, "indent with spaces")
    return Diagnostic("KD103", f"text cannot start with {character!r}", span, "put it in quotes")
