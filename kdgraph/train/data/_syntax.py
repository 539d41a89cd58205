"""What each byte of Python source belongs to, by Python's own tokeniser."""

from __future__ import annotations

import io
import keyword
import tokenize
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from kdgraph.train.data._split import Split
from kdgraph.train.data._text import IGNORED, Windows

KINDS = ("space", "comment", "docstring", "string", "number", "keyword", "name", "operator")
_SPACE, _COMMENT, _DOCSTRING, _STRING, _NUMBER, _KEYWORD, _NAME, _OPERATOR = range(len(KINDS))

_BEFORE_A_STATEMENT = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
_BETWEEN = {tokenize.NL, tokenize.COMMENT}  # say nothing of where a statement starts
# since Python 3.12 the pieces of an f-string are tokens of their own
_PIECES = {getattr(tokenize, f"FSTRING_{part}", -1) for part in ("START", "MIDDLE", "END")}


def kinds(source: bytes) -> bytes | None:
    """An index into ``KINDS`` for each byte; None for what is no Python in ASCII."""
    if not source.isascii():
        return None  # positions of tokens count characters
    starts = [0]
    for line in io.BytesIO(source):  # as the tokeniser reads them
        starts.append(starts[-1] + len(line))
    found = bytearray(len(source))
    before = tokenize.ENCODING
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            kind = _kind(token, before)
            if kind != _SPACE:
                begin, end = (starts[row - 1] + column for row, column in (token.start, token.end))
                found[begin:end] = bytes([kind]) * (end - begin)
            if token.type not in _BETWEEN:
                before = token.type
    except (SyntaxError, tokenize.TokenError):
        return None
    return bytes(found)


def _kind(token: tokenize.TokenInfo, before: int) -> int:
    if token.type == tokenize.NAME:
        return _KEYWORD if keyword.iskeyword(token.string) else _NAME
    if token.type == tokenize.STRING:  # one that stands where a statement starts is a docstring
        return _DOCSTRING if before in _BEFORE_A_STATEMENT else _STRING
    if token.type in _PIECES:
        return _STRING
    known = {tokenize.COMMENT: _COMMENT, tokenize.NUMBER: _NUMBER, tokenize.OP: _OPERATOR}
    return known.get(token.type, _SPACE)


class Highlighted(Split):
    """Windows of source: ``tokens`` [L] and, for each byte, what it belongs to, ``label`` [L]."""

    def __init__(self, windows: Windows, kind: Tensor) -> None:
        self.windows, self.kind = windows, kind

    @classmethod
    def of(cls, documents: Iterable[tuple[bytes, bytes]], length: int) -> Highlighted:
        """The pieces of documents, given with the kinds of their bytes."""
        held = [pair for pair in documents if len(pair[0]) > 1]  # as Windows does
        kind = torch.frombuffer(bytearray(b"".join(k for _, k in held)), dtype=torch.uint8)
        return cls(Windows.of((text for text, _ in held), length), kind)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("tokens", "label")

    def __len__(self) -> int:
        return len(self.windows)

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        which, length = torch.as_tensor(indices), self.windows.length
        place = self.windows.start[which].unsqueeze(1) + torch.arange(length)
        inside = place < self.windows.stop[which].unsqueeze(1)
        label = self.kind[place.clamp_max(len(self.kind) - 1)].long().where(inside, IGNORED)
        return {"tokens": self.windows.rows(indices)["tokens"], "label": label}

    def held(self) -> Mapping[str, Tensor]:
        return {**self.windows.held(), "kind": self.kind}

    def subset(self, indices: Tensor) -> Highlighted:
        return Highlighted(self.windows.subset(indices), self.kind)
