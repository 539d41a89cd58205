"""Python syntax: source, byte by byte, and what each byte belongs to."""

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
    from kdgraph.train.data._syntax import Highlighted

_SHARES = (0.1, 0.2)  # of the files: validation up to the first, test up to the second


@register_data
class PythonSyntax(DataSet):
    """``python_syntax``: highlighting, a class for each byte of Python source.

    A row is a piece of ``length`` bytes of a file of Python's own standard library: real text that
    is always at hand, though it differs from one version of Python to the next. Columns: ``tokens``
    [L], the bytes, and ``label`` [L], what each belongs to by Python's tokeniser: 0 space,
    1 comment, 2 docstring, 3 other string, 4 number, 5 keyword, 6 name, 7 operator. Whether a piece
    starts inside a string, only what follows tells, or nothing does. Behind the end of a file
    tokens are 0 and labels -100, which losses and metrics leave out.

    Whole modules and packages are split, never pieces: 10% for validation and 10% for the test. Of
    each part only some files are read.
    """

    use: Literal["python_syntax"] = "python_syntax"

    length: Count = 64
    """Bytes in a row, L."""

    files: Count = 60
    """Files drawn for training; a quarter as many for validation, and for the test."""

    held_out: Count = 512
    """Rows kept for validation, and as many for the test, drawn once; all if there are fewer."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        from kdgraph.train.data._split import draw, seed_of

        files: dict[str, list[bytes]] = {}
        seen: set[bytes] = set()  # a copy would be on two sides
        for name, text in library():
            if len(text) > 1 and text not in seen:
                seen.add(text)
                files.setdefault(name, []).append(text)
        # an order that depends on names alone, so that it is the same on every machine
        names = sorted(files, key=lambda name: seed_of("python_syntax", self.split_seed, name))
        if len(names) < 3:
            message = "python_syntax needs the source of Python's library, which is not installed"
            raise DataError.of("KD710", message)
        ends = [max(at, round(share * len(names))) for at, share in enumerate(_SHARES, start=1)]
        few = -(-self.files // 4)
        train = self._part(files, names[ends[1] :], self.files)
        val = self._part(files, names[: ends[0]], few)
        test = self._part(files, names[ends[0] : ends[1]], few)
        val, test = (
            part.subset(draw(part, self.held_out, "python_syntax held out", self.split_seed)[0])
            for part in (val, test)
        )
        note = "split by module or package of Python's library; labels are its tokeniser's"
        return Splits(train, val, test, note)

    def _part(self, files: dict[str, list[bytes]], names: list[str], count: int) -> Highlighted:
        import torch

        from kdgraph.train.data._split import seeded
        from kdgraph.train.data._syntax import Highlighted, kinds

        texts = [text for name in names for text in files[name]]
        order = torch.randperm(len(texts), generator=seeded("python_syntax", self.split_seed))
        found: list[tuple[bytes, bytes]] = []
        for at in order.tolist():
            if len(found) == count:
                break
            if (kind := kinds(texts[at])) is not None:
                found.append((texts[at], kind))
        return Highlighted.of(found, self.length)
