"""Broken YAML in our own words."""

from __future__ import annotations

import re
from dataclasses import replace

import yaml

from kdgraph.errors import Diagnostic, Span
from kdgraph.spec.lines import Lines
from kdgraph.spec.tree import Key, Node

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


_BEFORE = re.compile(r"[^\s,\[\]{}'\"]+$")  # the rest of a word, up to a place
_INDEX = re.compile(r"(?:\[[^\s,\[\]{}]*\]|\{[^\s,\[\]{}]*\}|[^\s,\[\]{}])+")
_NUMBERS = re.compile(r"[0-9]+(?: *, *[0-9]+)*(?= *[,}])")
_WORD = 200  # characters: longer words are not looked at


def explain(error: yaml.MarkedYAMLError, lines: Lines) -> Diagnostic:
    """One diagnostic for what the parser found."""
    here, start = error.problem_mark, error.context_mark or error.problem_mark
    said = f"{error.problem} {error.context or ''}"
    if "cannot start any token" in said and here is not None:
        return _bad_start(lines.span(here.line, here.column))
    if here is not None and (found := _in_a_word(lines.span(here.line, here.column))):
        return found
    for pattern, words, place, help in _WORDS:
        if re.search(pattern, said):
            mark = here if place == "here" else start
            span = lines.span(mark.line, mark.column) if mark else None
            return Diagnostic("KD103", words, span, help)
    span = lines.span(here.line, here.column) if here else None
    return Diagnostic("KD103", f"not valid YAML: {error.problem}", span)


def _in_a_word(span: Span) -> Diagnostic | None:
    """What is wrong where the parser stopped inside braces, at a mark in the middle of a word."""
    at = span.column - 1
    mark, after = span.excerpt[at : at + 1], span.excerpt[at + 1 : at + 2]
    before = _BEFORE.search(span.excerpt[max(0, at - _WORD) : at])
    if before is None:
        return None
    start = replace(span, column=span.column - len(before[0]))
    if mark == ":" and after in ("}", "]", ","):
        word = before[0]
        return Diagnostic("KD103", f"{word!r} has no value", replace(start, length=len(word)))
    index = _INDEX.match(span.excerpt, at, at + _WORD) if mark in ("[", "{") else None
    if index is None:
        return None
    word = before[0] + index[0]
    message = f"text that stands in braces or brackets cannot hold {mark!r}"
    place = replace(start, length=len(word))
    return Diagnostic("KD103", message, place, f"put {word!r} in quotes")


def _bad_start(span: Span) -> Diagnostic:
    column = span.column - 1
    character = span.excerpt[column : column + 1]
    if character == "\t":
        return Diagnostic("KD103", "a tab cannot indent", span, "indent with spaces")
    return Diagnostic("KD103", f"text cannot start with {character!r}", span, "put it in quotes")


def loose_numbers(span: Span) -> list[str]:
    """The numbers that stand at a place in braces with commas between them, and no ':'."""
    at = span.column - 1
    found = _NUMBERS.match(span.excerpt, at, at + _WORD)
    return re.findall("[0-9]+", found[0]) if found else []


def as_list(entries: dict[Key, Node], numbers: list[str]) -> str:
    """What was meant by ``{shape: B, 3, 32}``, or by ``{B, 3, 32}``, from what came before."""
    key, node = next(reversed(entries.items()), ("", None))
    if node is None or isinstance(node.value, dict | tuple):
        return f"write `[{', '.join(numbers)}]`"
    if node.value is None:
        return f"write `[{', '.join([str(key), *numbers])}]`"
    return f"write `{key}: [{', '.join([str(node.value), *numbers])}]`"
