"""Writing a book: shard by shard, by one process or several, again after any interruption."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kdgraph.book.files import cannot, locked, put, sound, sweep
from kdgraph.book.header import FOLDER, HEADER, MAX_SHARDS, SHARDS, Header, Shard, checksum, small
from kdgraph.errors import BookError

_LONGEST = 32 << 20  # bytes of the list of shards
FOREIGN = "it is of another book"
_NAME = re.compile(r"(\d{5,})-([0-9a-f]{32})\.safetensors")


class File(NamedTuple):
    """A shard on disk, its name made of its number and the checksum of the whole file."""

    number: int
    name: str
    checksum: str


class Writer:
    """Writes the shards that are missing of one process's part, and finishes the book.

    A shard is written aside, then renamed, so it is there in full or not at all; its name holds
    its checksum, so it is known to be sound; it carries the mark of the header, so it is known to
    be of this book. Two processes that write the same shard write two sound files, of which the
    list in ``shards.json`` names one. That list is written once every shard is there, and only
    with it can a book be opened.

    Args:
        path: the folder, made if it is not there.
        header: what is to be written.
        rank: which of ``world`` processes this is; each writes a stretch of the shards.
        world: how many processes build the book together.

    Attributes:
        removed: names of the shards that were there, but damaged or of another book.

    Raises:
        BookError: on entering: KD763 when the folder holds another book; KD765 when it cannot be
            written, or there is too little room; KD766 when somebody else is building.
    """

    def __init__(self, path: Path, header: Header, *, rank: int = 0, world: int = 1) -> None:
        self.path, self.header, self.rank, self.world = path, header, rank, world
        self.removed: list[str] = []
        self._owner = f"{rank}-of-{world}"
        self._held = ExitStack()

    def __enter__(self) -> Self:
        if (count := self.header.views * self.header.shards_per_view) > MAX_SHARDS:
            message = f"the book would have {count:,} shards, more than {MAX_SHARDS:,}"
            raise BookError.of("KD765", message, help="fewer views, or a smaller part of the data")
        try:
            (self.path / FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot(self.path, error) from error
        self._held.enter_context(locked(self.path, alone=self.world == 1))
        try:
            for folder in (self.path, self.path / FOLDER):
                sweep(folder, None if self.world == 1 else self._owner)
            self._settle_header()
            self._remove_damaged()
            self._check_room()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._held.close()

    def _own(self) -> list[Shard]:
        shards = list(self.header.shards())
        first, stop = (len(shards) * r // self.world for r in (self.rank, self.rank + 1))
        return shards[first:stop]

    def missing(self) -> list[Shard]:
        """The shards of this process that are still to be written."""
        there = {file.number for file in files(self.path)}
        return [shard for shard in self._own() if shard.number not in there]

    def write(self, shard: Shard, parts: Mapping[str, Tensor]) -> None:
        """Writes one shard.

        Args:
            shard: which.
            parts: by the names of ``Column.parts``, [rows of the shard, ...] on the CPU.

        Raises:
            BookError: KD765 when it cannot be written.
        """
        rows = shard.stop - shard.start
        for column in self.header.columns:
            for name, (shape, dtype) in column.parts.items():
                assert parts[name].shape == (rows, *shape), (name, parts[name].shape)
                assert parts[name].dtype == dtype, (name, parts[name].dtype)
        # one entry alone: the order of several would differ from one writing to the next
        metadata = {"kdgraph": f"{self.header.mark} {shard.number}"}
        data = save({name: value.contiguous() for name, value in parts.items()}, metadata)
        name = f"{shard.number:05}-{checksum(data)}.safetensors"
        put(self.path / FOLDER / name, data, self._owner)

    def finish(self) -> bool:
        """Finishes the book if every shard of every process is there; False if not.

        Raises:
            BookError: KD763 when the header has become that of another book meanwhile; KD765 when
                the list of shards cannot be written.
        """
        if Header.read(self.path) != self.header:
            message = f"{str(self.path)!r} has become another book while this one was built"
            raise BookError.of("KD763", message, help="build each in a folder of its own")
        chosen = {file.number: file for file in reversed(files(self.path))}
        if any(shard.number not in chosen for shard in self.header.shards()):
            return False
        if read_list(self.path, self.header) is None:
            listed = [
                [chosen[s.number].name, (self.path / FOLDER / chosen[s.number].name).stat().st_size]
                for s in self.header.shards()
            ]
            content: dict[str, Any] = {"book": self.header.mark, "shards": listed}
            content["checksum"] = checksum(json.dumps(content).encode())
            text = json.dumps(content, indent=1) + "\n"
            put(self.path / SHARDS, text.encode(), self._owner)
        return True

    def _settle_header(self) -> None:
        """Writes the header, or makes sure that the one there is the same."""
        try:
            there = Header.read(self.path)
        except BookError as error:  # none, or a damaged one: shards tell by their mark whose
            self._refuse_others(error)
            put(self.path / HEADER, self.header.text(), self._owner)
            there = Header.read(self.path)
        if found := there.differences(self.header):
            raise BookError(found)

    def _refuse_others(self, error: BookError) -> None:
        """Refuses a folder that has sound shards of another book, or of another version of one."""
        for file in files(self.path):
            if fault(self.path, self.header, file) == FOREIGN:
                said = error.diagnostics[0].message
                message = f"{said}, and the shard {file.name!r} beside it is of another book"
                help = "build in another folder, or remove this one"
                raise BookError.of("KD763", message, help=help) from error

    def _remove_damaged(self) -> None:
        """Takes away what is no sound shard of this book, so that it is written again."""
        own = {shard.number for shard in self._own()}
        for file in files(self.path):
            if file.number in own and fault(self.path, self.header, file) is not None:
                # first the list: a book with a shard missing is not finished
                (self.path / SHARDS).unlink(missing_ok=True)
                (self.path / FOLDER / file.name).unlink(missing_ok=True)
                self.removed.append(file.name)
        listed = read_list(self.path, self.header)
        names = {file.name for file in files(self.path)}
        if listed is None or any(name not in names for name, _ in listed):
            (self.path / SHARDS).unlink(missing_ok=True)

    def _check_room(self) -> None:
        rows = sum(shard.stop - shard.start for shard in self.missing())
        need, free = rows * self.header.sample_bytes, shutil.disk_usage(self.path).free
        if need > free:
            message = f"{str(self.path)!r} has room for {free:,} bytes, and {need:,} are to come"
            raise BookError.of("KD765", message, help="make room, or keep less: float16, top_k")


def files(path: Path) -> list[File]:
    """The shards on disk, in order; whether they are sound is not looked at."""
    matches = (_NAME.fullmatch(p.name) for p in (path / FOLDER).glob("*.safetensors"))
    return sorted(File(int(m[1]), m[0], m[2]) for m in matches if m is not None)


def fault(path: Path, header: Header, file: File) -> str | None:
    """What is wrong with a shard, if anything; reads all of it."""
    place = path / FOLDER / file.name
    if not sound(place, file.checksum):
        return "its content is not what was written" if place.exists() else "it is missing"
    try:
        with safe_open(place, "pt") as content:
            mark = (content.metadata() or {}).get("kdgraph")
            if mark != f"{header.mark} {file.number}":
                return FOREIGN
            # by way of torch: what safetensors gives NumPy is a copy
            return _unlike(header, file.number, content.get_tensor, content.keys())
    except (SafetensorError, OSError) as error:
        return str(error)


def _unlike(
    header: Header, number: int, get: Callable[[str], Tensor], names: Collection[str]
) -> str | None:
    """In what the tensors of a shard are not those of its header, if in anything.

    A checksum is no signature: whoever made the book made that, too.
    """
    start, stop = (number % header.shards_per_view) * header.shard_rows, header.rows
    rows = min(header.shard_rows, stop - start)
    for column in header.columns:
        for name, (shape, dtype) in column.parts.items():
            if name not in names:
                return f"it has no {name!r}"
            value = get(name)
            if tuple(value.shape) != (rows, *shape) or value.dtype != dtype:
                return f"its {name!r} is {list(value.shape)} of {value.dtype}"
            if value.is_floating_point() and not value.sum(dtype=torch.float64).isfinite():
                return f"its {name!r} has values that are not finite"
            if name.endswith(".ids") and value.numel():
                least, most = value.aminmax()
                if column.form == "top_k" and (least < 0 or most >= column.shape[-1]):
                    return f"its {name!r} has classes that there are not"
    return None


def read_list(path: Path, header: Header) -> list[tuple[str, int]] | None:
    """Names and sizes of the shards of a finished book; None where there is no sound list."""
    try:
        content = json.loads(small(path / SHARDS, _LONGEST))
        said = content.pop("checksum")
        if said != checksum(json.dumps(content).encode()) or content["book"] != header.mark:
            return None
        listed = [(str(name), int(size)) for name, size in content["shards"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    # names are joined to a folder, and of what is fetched they say where it is put
    matches = [_NAME.fullmatch(name) for name, _ in listed]
    numbers = [int(match[1]) if match else -1 for match in matches]
    return listed if numbers == [shard.number for shard in header.shards()] else None


def joined(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Encoded batches one behind the other."""
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
