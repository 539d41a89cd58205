"""Building a book: the teachers' side alone, once over the training rows in each of their views."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from kdgraph.book import Header, Writer
from kdgraph.book.files import cannot, locked
from kdgraph.book.header import differing, in_units
from kdgraph.errors import BookError
from kdgraph.spec.frontier import stored, why_nothing
from kdgraph.spec.language import Spec
from kdgraph.spec.read import load_spec
from kdgraph.teachers import compile_teachers
from kdgraph.train.counting import counted
from kdgraph.train.data._open import open_data
from kdgraph.train.data._views import views_of
from kdgraph.train.data.base import DataSet
from kdgraph.train.derive import to_train
from kdgraph.train.progress import Board
from kdgraph.train.provenance import provenance
from kdgraph.train.ranks import Place, can_meet, joined, of_all, world
from kdgraph.train.runner import check_training, with_weights
from kdgraph.train.session import Setting
from kdgraph.train.shards import Source, column_of, refuse_unblended
from kdgraph.train.teacher import train_teachers

TEACHERS = "teachers"  # the folder in a book for teachers that are trained for it
_PATIENCE = timedelta(days=7)  # one process may have much more to do than another


@dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
        path: the folder of the book.
        rows: samples.
        views: of each.
        columns: what is kept of each sample in each view, with its ``bytes``.
        bytes: of all rows together, as predicted before the first was computed.
        computed: samples that went through the teachers this time, all views counted.
        removed: shards that were damaged, and were written again.
        finished: whether the book is whole; False where other processes still write.
        seconds: that the computed samples took.
    """

    path: str
    rows: int
    views: int
    columns: tuple[dict[str, Any], ...]
    bytes: int
    computed: int
    removed: tuple[str, ...]
    finished: bool
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For ``--format json``."""
        return asdict(self)


def build_book(
    spec: str | Path | Mapping[str, Any] | Spec,
    *,
    out: str | Path,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    trust: Collection[str] = (),
    set: Sequence[str] = (),
    without: Collection[str] = (),
    also: Collection[str] = (),
    console: Console | None = None,
) -> Built:
    """Runs the teachers' side of a spec over its training rows and keeps what it gives.

    What an earlier build of the same book left is kept, whatever ended it; shards that are
    damaged are written again. Under ``torchrun`` each process computes its share; teachers that
    are to be trained first are trained by all of them together.

    Args:
        spec: a path, YAML text, a mapping of the same form, or a ``Spec``.
        out: the folder of the book.
        batch_size: samples that go through the teachers at once; left out: ``data.batch_size``,
            with which a run on the book has the very bits of one with the teachers.
        workers: processes that load samples; left out: ``data.workers``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        trust: Python modules that ``python/`` models and data may come from.
        set: overrides like ``book.views=4``.
        without: optional passes to leave out, by name.
        also: optional passes to run that are off unless asked for, by name.
        console: where the size and progress are shown; left out: nowhere.

    Raises:
        KDGraphError: when the spec, the data or a model is not what it should be.
        BookError: KD76x when there is nothing to keep, the book cannot be written, or the folder
            holds another one.
    """
    checked = load_spec(spec, set=set) if not isinstance(spec, Spec) else spec
    place = Place.found(device)
    with joined(place, _PATIENCE) if can_meet() else nullcontext():
        built = prepare(
            checked, _folder(out), place, console, batch_size=batch_size,
            workers=workers, device=device, trust=trust, without=without, also=also,
        ).run()  # fmt: skip
        return _together(of_all(built))


def _together(every: Sequence[Built]) -> Built:
    """What all processes did that can talk to each other."""
    removed = tuple(name for one in every for name in one.removed)
    return replace(
        every[0], computed=sum(one.computed for one in every), removed=removed,
        finished=any(one.finished for one in every), seconds=max(one.seconds for one in every),
    )  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A build that is ready to run.

    Attributes:
        out: the folder of the book.
        header: what is to be written.
        source: gives the shards.
        place: which process this is.
        console: where progress is shown.
    """

    out: Path
    header: Header
    source: Source
    place: Place
    console: Console

    def run(self) -> Built:
        """Computes the missing shards of this process, and finishes the book if it can."""
        header, start = self.header, time.perf_counter()
        with Writer(self.out, header, rank=self.place.rank, world=self.place.world) as writer:
            for name in writer.removed:
                self.console.print(f"damaged, computed again: {name}", highlight=False)
            missing = writer.missing()
            computed = sum(shard.stop - shard.start for shard in missing)
            with counted(self.console, "teachers", computed) as tick:
                for shard, parts in self.source.shards(missing, header.columns, tick):
                    writer.write(shard, parts)
            finished, seconds = writer.finish(), time.perf_counter() - start
        return Built(
            path=str(self.out), rows=header.rows, views=header.views,
            columns=tuple({**c.as_dict(), "bytes": c.bytes} for c in header.columns),
            bytes=header.total_bytes, computed=computed, removed=tuple(writer.removed),
            finished=finished, seconds=seconds,
        )  # fmt: skip


def prepare(
    spec: Spec, out: Path, place: Place, console: Console | None = None, *,
    batch_size: int | None = None, workers: int | None = None, device: str = "auto",
    trust: Collection[str] = (), without: Collection[str] = (), also: Collection[str] = (),
) -> Job:  # fmt: skip
    """All that comes before the first sample: teachers trained if need be, compiled, described.

    Arguments are those of ``build_book``. Says how large the book will be.
    """
    wanted = stored(spec)
    if not wanted:
        message = "no edge reads anything that depends on frozen models alone"
        raise BookError.of("KD760", message, span=spec.span("losses"), help=why_nothing(spec))
    board = Board(console if place.rank == 0 else None)
    data, splits = open_data(spec, trust)
    book = views_of(spec, data)  # what it refuses is refused before anything is trained
    _refuse_other(out, provenance(spec, data, splits, list(wanted), {}, without, also))
    setting = Setting(data, splits, None, True, device, board, without, also)
    ready = with_weights(spec, _teachers(spec, out / TEACHERS, setting, trust, place))
    module = compile_teachers(ready, list(wanted), trust=trust, without=without, also=also)
    data = _read_so(data, batch_size, workers)
    source = Source(splits.train, data, book, module.to(place.device), place.device)
    module.look(source.first(), source.padded())
    columns = tuple(column_of(name, kept, module, spec) for name, kept in wanted.items())
    refuse_unblended(spec, data, columns)
    header = Header.plan(
        columns, provenance(spec, data, splits, list(wanted), module.networks, without, also),
        len(splits.train), book.views or 1, data.batch_size,
    )  # fmt: skip
    board.say(describe(header))
    return Job(out, header, source, place, board.console)


def _folder(out: str | Path) -> Path:
    """Where a book is written: a folder, not a place in an object store."""
    if re.match(r"[a-z0-9]+:/", str(out)):
        message = f"a book is built in a folder, and {str(out)!r} is none"
        raise BookError.of("KD765", message, help="build it in a folder, and copy that")
    return Path(out)


def _refuse_other(out: Path, expected: Mapping[str, str]) -> None:
    """Refuses a folder that holds another book, before teachers are trained in it.

    Raises:
        BookError: KD763 with what differs of all that is known without the teachers.
    """
    try:
        there = Header.read(out)
    except BookError:  # none, or a damaged one, which is written again
        return
    if found := differing(there.fingerprint, expected, f"book in {str(out)!r}"):
        raise BookError(found)


def _teachers(
    spec: Spec, folder: Path, setting: Setting, trust: Collection[str], place: Place
) -> dict[str, Path]:
    """The weights of teachers that the spec trains first."""
    if not (names := to_train(spec)):
        return {}
    done = all((folder / name / "run.json").exists() for name in names)
    if place.world > 1 and world() == 1 and not done:
        message = f"the teacher {names[0]!r} is still to be trained, and these processes know not "
        message += "of each other"
        help = "start them by torchrun, or one alone until it says the size of the book"
        raise BookError.of("KD760", message, help=help)
    check_training(spec)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot(folder, error) from error
    with locked(folder, alone=place.world == 1), setting.board.open():
        return train_teachers(spec, folder, setting, trust, compare=False)[1]


def _read_so(data: DataSet, batch_size: int | None, workers: int | None) -> DataSet:
    """The data set, read in other batches or by other processes than the spec says."""
    said = {"batch_size": batch_size, "workers": workers}
    return data.model_copy(update={key: v for key, v in said.items() if v is not None})


def describe(header: Header) -> str:
    """What is to be written, and how large it will be."""
    views = f" in {header.views} views" if header.views > 1 else ""
    kept = ", ".join(
        f"{c.name} {list(c.shape)} {f'top {c.k} ' if c.k else ''}{c.dtype}" for c in header.columns
    )
    size = f"{in_units(header.total_bytes)}, {header.sample_bytes:,} bytes a sample"
    return f"book of {header.rows:,} samples{views}: {size}: {kept}"
