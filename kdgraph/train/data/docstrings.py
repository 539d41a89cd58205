"""Pairs of sentences: what a function of Python's library is said to do, and its code."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdgraph.errors import DataError
from kdgraph.spec.data import register_data
from kdgraph.spec.types import Count
from kdgraph.train.data.base import DataSet, Splits
from kdgraph.train.data.text import library

if TYPE_CHECKING:
    from kdgraph.train.data._split import TensorSplit
    from kdgraph.train.data._tokens import Tokeniser

_SHARES = (0.1, 0.2)  # of the modules: validation up to the first, test up to the second


@register_data
class Docstrings(DataSet):
    """``docstrings``: the first line of a docstring and the code below it, for sentence encoders.

    Of functions and classes of Python's own standard library: real text that is always at hand,
    though it differs from one version of Python to the next. Columns: ``summary`` [L] and ``code``
    [L], tokens with the special ones of the tokenizer, and ``summary_mask`` and ``code_mask`` [L],
    1 where there is a token.

    Whole modules and packages are split, never functions: 10% for validation and 10% for the test.
    """

    use: Literal["docstrings"] = "docstrings"

    tokenizer: str
    """A folder, ``package:NAME/folder`` of an installed package, or a model id of the hub."""

    length: Count = 32
    """Tokens in a row, L; what is longer is cut."""

    files: Count = 400
    """Files drawn for training; a quarter as many for validation, and for the test."""

    held_out: Count = 256
    """Rows kept for validation, and as many for the test, drawn once; all if there are fewer."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        from kdgraph.train.data._split import draw, seed_of
        from kdgraph.train.data._tokens import Tokeniser

        texts: dict[str, list[str]] = {}
        for name, text in library():
            texts.setdefault(name, []).append(text.decode())
        # an order that depends on names alone, so that it is the same on every machine
        names = sorted(texts, key=lambda name: seed_of("docstrings", self.split_seed, name))
        if len(names) < 3:
            message = "docstrings needs the source of Python's library, which is not installed"
            raise DataError.of("KD710", message)
        ends = [max(at, round(share * len(names))) for at, share in enumerate(_SHARES, start=1)]
        few = -(-self.files // 4)
        parts = (
            (names[ends[1] :], self.files),
            (names[: ends[0]], few),
            (names[slice(*ends)], few),
        )
        tokeniser = Tokeniser(self.tokenizer, folder)
        train, val, test = (
            self._part(tokeniser, [text for name in part for text in texts[name]], count)
            for part, count in parts
        )
        val, test = (
            part.subset(draw(part, self.held_out, "docstrings held out", self.split_seed)[0])
            for part in (val, test)
        )
        return Splits(train, val, test, "split by module or package of Python's library")

    def _part(self, tokeniser: Tokeniser, texts: list[str], count: int) -> TensorSplit:
        import torch

        from kdgraph.train.data._docstrings import pairs
        from kdgraph.train.data._split import TensorSplit, seeded

        order = torch.randperm(len(texts), generator=seeded("docstrings", self.split_seed))
        found = [pair for at in order[:count].tolist() for pair in pairs(texts[at])]
        columns = {}
        for name, side in zip(("summary", "code"), zip(*found, strict=True), strict=True):
            columns[name], columns[f"{name}_mask"] = tokeniser.padded(side, self.length)
        return TensorSplit(columns)
