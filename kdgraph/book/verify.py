"""Whether a book on disk is what was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdgraph.book.header import FOLDER, Header
from kdgraph.book.remote import local
from kdgraph.book.writer import fault, files, read_list


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        finished: every shard is there and listed.
        shards: how many a finished book has.
        missing: numbers of shards that are not there.
        damaged: names of shards that are there, and what is wrong with each.
    """

    finished: bool
    shards: int
    missing: tuple[int, ...]
    damaged: dict[str, str]

    @property
    def sound(self) -> bool:
        """Whether it can be used."""
        return self.finished and not self.missing and not self.damaged


def verify(path: str | Path) -> Verdict:
    """Reads every shard of a book, finished or not, and compares it with its checksum.

    One that lies in an object store is fetched, and what is fetched has to be sound.

    Raises:
        BookError: KD761 there is no book; KD762 its header is damaged.
    """
    path = local(path)
    header = Header.read(path)
    listed = read_list(path, header)
    names = {name for name, _ in listed or ()}
    found = [file for file in files(path) if listed is None or file.name in names]
    damaged = {f.name: why for f in found if (why := fault(path, header, f)) is not None}
    there = {file.number for file in found}
    missing = tuple(s.number for s in header.shards() if s.number not in there)
    return Verdict(listed is not None, header.views * header.shards_per_view, missing, damaged)


def size(path: Path) -> int:
    """Bytes of the shards on disk."""
    return sum((path / FOLDER / file.name).stat().st_size for file in files(path))


def present(path: Path) -> tuple[int, bool]:
    """How many shards are there, and whether the book is finished; nothing is read."""
    return len({file.number for file in files(path)}), read_list(
        path, Header.read(path)
    ) is not None
