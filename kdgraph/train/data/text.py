"""Text, byte by byte: Python's standard library, or files of the user's own."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdgraph.errors import DataError
from kdgraph.spec.data import register_data
from kdgraph.spec.types import Count
from kdgraph.train.data.base import DataSet, Splits

if TYPE_CHECKING:
    from kdgraph.train.data._text import Windows

# Tables and generated pages rather than code that someone wrote, or not installed everywhere.
_LEFT_OUT = {"encodings", "pydoc_data", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtledemo"}
_NO_SOURCE = "this Python comes without its source; give a `path`"
_SHARES = (0.1, 0.2)  # of the documents: validation up to the first, test up to the second

Document = tuple[str, bytes]


@register_data
class Text(DataSet):
    """``text``: next-byte prediction, columns ``tokens`` [L] and ``label`` [L], 256 classes.

    A row is a piece of ``length`` bytes; its labels are the same bytes one place on. Behind the
    end of a document tokens are 0 and labels -100, which losses and metrics leave out. Without
    ``path`` the text is the source of Python's own standard library, real text that is always at
    hand, though it differs from one version of Python to the next. Whole modules and packages, or
    the documents of ``path``, are split, never pieces: 10% for validation and 10% for the test.
    Of equal texts one is kept.
    """

    use: Literal["text"] = "text"

    length: Count = 128
    """Bytes in a row, L."""

    path: str | None = None
    """A UTF-8 file, or a folder of them; left out: Python's standard library."""

    glob: str = "**/*.txt"
    """Which files of a folder; each is one document."""

    separator: Annotated[str, Field(min_length=1)] | None = None
    """Cuts files into documents at this text, so that a single file can be split too."""

    held_out: Count = 512
    """Rows kept for validation, and as many for the test, drawn once; all if there are fewer."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        from kdgraph.train.data._split import draw, seed_of

        texts: dict[str, list[bytes]] = {}
        seen: set[bytes] = set()  # a copy, or a link to a file, would be on two sides
        for name, text in library() if self.path is None else self._files(folder / self.path):
            if text not in seen:
                seen.add(text)
                texts.setdefault(name, []).append(text)
        if len(texts) < 3:
            raise DataError.of(
                "KD710",
                f"text needs 3 documents at the least, to split them; found {len(texts)}",
                help="`separator` cuts files into documents" if self.path else _NO_SOURCE,
            )
        # an order that depends on names alone, so that it is the same on every machine
        names = sorted(texts, key=lambda name: seed_of("text", self.split_seed, name))
        ends = [max(at, round(share * len(names))) for at, share in enumerate(_SHARES, start=1)]
        parts = [names[ends[1] :], names[: ends[0]], names[ends[0] : ends[1]]]
        cut = self._cutter(folder)
        train, val, test = (cut(t for name in part for t in texts[name]) for part in parts)
        val, test = (
            part.subset(draw(part, self.held_out, "text held out", self.split_seed)[0])
            for part in (val, test)
        )
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        what = "document" if self.path else f"module or package of Python {version}"
        counts = " / ".join(str(len(part)) for part in parts)
        note = f"split by {what}, {counts} for training / validation / test"
        return Splits(train, val, test, note)

    def _cutter(self, folder: Path) -> Callable[[Iterable[bytes]], Windows]:
        """What makes rows of the documents of a part."""
        from kdgraph.train.data._text import Windows

        return partial(Windows.of, length=self.length)

    def _files(self, place: Path) -> Iterator[Document]:
        """Name and text of every document under ``path``."""
        try:
            files = [place] if place.is_file() else sorted(place.glob(self.glob))
        except (NotImplementedError, ValueError) as error:
            raise DataError.of("KD710", f"`glob`: {error}") from error
        files = [file for file in files if file.is_file()]
        if not files:
            message = f"there is no file {place}, nor a {self.glob!r} in a folder of that name"
            raise DataError.of("KD710", message)
        for file in files:
            text = _read(file)
            name = file.relative_to(place).as_posix() if file != place else file.name
            if self.separator is None:
                yield name, text
                continue
            for number, part in enumerate(text.split(self.separator.encode())):
                if part.strip():
                    yield f"{name} {number}", part


def library() -> Iterator[Document]:
    """Module or package, and text, of each source file of the standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names - _LEFT_OUT):
        place = root / name
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        for file in files:
            if file.is_file() and not {"test", "tests"} & set(file.relative_to(root).parts):
                yield name, _read(file)


def _read(file: Path) -> bytes:
    try:
        text = file.read_bytes()
        text.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError.of("KD710", f"{file} cannot be read as UTF-8 text: {error}") from error
    return text
