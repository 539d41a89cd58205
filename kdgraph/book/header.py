"""What a book is to hold, said before the first row is written: ``book.json``."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from kdgraph.book.column import Column
from kdgraph.errors import BookError, Diagnostic

HEADER, SHARDS, FOLDER = "book.json", "shards.json", "shards"
_VERSION = 1
NONE = "none"  # of a fingerprint: a field that is not to be there
MAX_SHARDS = 1 << 18  # of a book that is read; 16 TB where each has as much as it may
_LONGEST = 4 << 20  # bytes of the header
_BYTES, _ROWS = 64 << 20, 4096  # what a shard holds at most: a kill costs no more than one


class Shard(NamedTuple):
    """A stretch of samples in one view, which is one file.

    Attributes:
        stop: the sample behind the last one.
    """

    number: int
    view: int
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """What a book is to hold.

    Attributes:
        columns: what is kept of each sample.
        fingerprint: what it is made of; see ``Book``.
        rows: samples.
        views: of each sample.
        batch: samples that go through the teachers at once. A shard is whole batches, so that
            where a build was interrupted makes no difference to the last bit of any value.
        shard_rows: samples in each shard but the last of a view.
    """

    columns: tuple[Column, ...]
    fingerprint: dict[str, str]
    rows: int
    views: int
    batch: int
    shard_rows: int

    @classmethod
    def plan(
        cls, columns: tuple[Column, ...], fingerprint: Mapping[str, str], rows: int,
        views: int = 1, batch: int = 64, shard_rows: int | None = None,
    ) -> Self:  # fmt: skip
        """A header with shards of a size that is quickly written again."""
        most = min(_BYTES // max(1, sum(c.bytes for c in columns)), _ROWS)
        shard_rows = max(1, (shard_rows or most) // batch) * batch
        return cls(columns, dict(sorted(fingerprint.items())), rows, views, batch, shard_rows)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample in one view."""
        return sum(column.bytes for column in self.columns)

    @property
    def total_bytes(self) -> int:
        """Bytes of all rows; the files have some 100 bytes more for each column."""
        return self.sample_bytes * self.rows * self.views

    @property
    def shards_per_view(self) -> int:
        """Files of one view."""
        return -(-self.rows // self.shard_rows)

    def shards(self) -> Iterator[Shard]:
        """Every shard, in order."""
        for number in range(self.views * self.shards_per_view):
            view, index = divmod(number, self.shards_per_view)
            start = index * self.shard_rows
            yield Shard(number, view, start, min(start + self.shard_rows, self.rows))

    @property
    def mark(self) -> str:
        """Tells this header from any other; every shard carries it."""
        return checksum(json.dumps(self._content(), sort_keys=True).encode())

    def _content(self) -> dict[str, Any]:
        return {
            "kdgraph_book": _VERSION,
            "columns": [column.as_dict() for column in self.columns],
            "fingerprint": self.fingerprint,
            **{key: getattr(self, key) for key in ("rows", "views", "batch", "shard_rows")},
        }

    def _can_be(self) -> bool:
        """Whether numbers and texts are what they should be, whoever wrote them."""
        numbers = (self.rows, self.views, self.batch, self.shard_rows)
        if not all(type(n) is int and 0 < n < 1 << 40 for n in numbers):
            return False
        texts = [t for pair in self.fingerprint.items() for t in pair]
        names = {column.name for column in self.columns}
        return (
            all(isinstance(t, str) for t in texts)
            and 0 < len(names) == len(self.columns)
            and self.views * self.shards_per_view <= MAX_SHARDS
        )

    def text(self) -> bytes:
        """The file."""
        content = {**self._content(), "checksum": self.mark}
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From the folder of a book.

        Raises:
            BookError: KD761 there is none; KD762 it is damaged, or of another version.
        """
        path = folder / HEADER
        try:
            text = small(path, _LONGEST)
        except OSError as error:
            raise BookError.of(
                "KD761", f"there is no book in {str(folder)!r}: {error.strerror or error}",
                help="`kdgraph book build SPEC -o DIR` makes one",
            ) from error  # fmt: skip
        try:
            said = json.loads(text)
            if (version := said["kdgraph_book"]) != _VERSION:
                message = f"{str(path)!r} is of version {version}; this kdgraph reads {_VERSION}"
                raise BookError.of("KD762", message, help="build it again")
            columns = tuple(Column.of(c) for c in said["columns"])
            keys = ("fingerprint", "rows", "views", "batch", "shard_rows")
            found = cls(columns, *(said[key] for key in keys))
            sound = found._can_be() and found.mark == said["checksum"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            sound = False
        if not sound:
            message = f"the header {str(path)!r} is damaged"
            raise BookError.of("KD762", message, help="`kdgraph book build` writes it again")
        return found

    def differences(self, other: Header) -> list[Diagnostic]:
        """What makes another header one of another book, each with its name."""
        found = differing(self.fingerprint, other.fingerprint, "book")
        for key in ("columns", "rows", "views", "batch", "shard_rows"):
            have, want = getattr(self, key), getattr(other, key)
            if have != want:
                told = tuple([c.name for c in x] if key == "columns" else x for x in (have, want))
                message = f"the book has {key.replace('_', ' ')} {told[0]}, not {told[1]}"
                if told[0] == told[1]:
                    message = f"the {key} of the book are kept in another way"
                found.append(Diagnostic("KD763", message))
        return found


_MEANING = {
    "weights": "the weights of the teachers",
    "subgraph": "the part of the teachers that is run",
    "transform": "what is done to samples before the teachers see them",
    "data": "the training rows",
    "spec": "what is kept, and the signals it is made by",
    "versions": "the versions of libraries",
}


def differing(have: Mapping[str, str], want: Mapping[str, str], whose: str) -> list[Diagnostic]:
    """A diagnostic for each field of a fingerprint that is not what is wanted.

    A field that is wanted to be ``NONE`` may be missing.
    """
    return [
        Diagnostic(
            "KD763",
            f"the {whose} is stale or of something else: its {field!r} is "
            f"{have.get(field, 'missing')}, not {want[field]}",
            help=f"that is of {_MEANING[field.partition('.')[0]]}; build the book again"
            if field.partition(".")[0] in _MEANING
            else "build the book again",
        )
        for field in want
        if have.get(field, NONE) != want[field]
    ]


def small(path: Path, most: int) -> bytes:
    """A whole file that has no more than so many bytes.

    Raises:
        OSError: it has more, or is none that ends: a device, a pipe.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is no regular file")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(f"it has more than {most:,} bytes")
    return data


def checksum(data: bytes | bytearray | memoryview) -> str:
    """128 bits as 32 letters."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def in_units(count: int) -> str:
    """``1.2 GB``."""
    for size, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
