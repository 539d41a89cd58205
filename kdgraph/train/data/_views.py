"""Training rows in views that are drawn once: what a row looks like depends on its id alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdgraph.errors import BookError, Diagnostic
from kdgraph.spec.book import BookSpec
from kdgraph.spec.booked import teachers_side
from kdgraph.spec.data import Augment
from kdgraph.spec.frontier import stored
from kdgraph.spec.language import Spec
from kdgraph.train.data._batches import Batches, Draws, Key, Share, draws
from kdgraph.train.data._split import Split, seeded
from kdgraph.train.data.base import DataSet
from kdgraph.train.data.transforms.base import Transform
from kdgraph.train.data.transforms.view import View

Shelf = Callable[[Tensor, int], Mapping[str, Tensor]]
"""What a book gives, as batch entries, for ids [B] in one view."""


def views_of(spec: Spec, data: DataSet, *, booked: bool = True) -> BookSpec:
    """The ``book`` block, with the number of views, fit for the data.

    Args:
        spec: whose block it is; left out, it is an empty one.
        data: what is read.
        booked: whether values come from a book, or are written to one; else the block says only
            which views training sees.

    Raises:
        BookError: KD760 where the number of views must be said, or rows cannot be changed one by
            one.
    """
    book = spec.book or BookSpec()
    found = [d for d in (_unsaid(spec, data, book),) if d is not None]
    found += [*_together(spec, data, book), *_mixed(spec, data)] if booked else []
    if found:
        raise BookError(found)
    return book.model_copy(update={"views": book.views or 1})


def _unsaid(spec: Spec, data: DataSet, book: BookSpec) -> Diagnostic | None:
    """Views that are drawn, but without a word on how many."""
    drawn = _random(data)
    if book.views is not None or drawn is None:
        return None
    message = f"{drawn} changes rows at random, and the spec does not say how many views of each "
    message += "a book holds"
    place = spec.span("book") if spec.book is not None else spec.span("data")
    help = "write `book: {views: 4}`, say: training sees them in turn, one in each epoch"
    return Diagnostic("KD760", message, place, help)


def _random(data: DataSet) -> str | None:
    """The first part of the ``data`` block that draws what it does to a row."""
    if data.augment is not None and (data.augment.shift or data.augment.flip):
        return "`augment`"
    return next((t.use for t in data.steps() if t.scope() == "row" and not _copies(t)), None)


def _copies(step: Transform) -> bool:
    """Whether it only repeats a column."""
    return isinstance(step, View) and not step.transforms


def _together(spec: Spec, data: DataSet, book: BookSpec) -> list[Diagnostic]:
    """Transforms that make of a row something that depends on other rows."""
    found, mixing = [], ""
    for at, step in enumerate(data.steps()):
        place, scope, help = spec.span("data", "transforms", at), step.scope(), None
        if scope == "row" and mixing:
            message = f"{step.use} would change rows that {mixing} has mixed, of which a book "
            message += "knows nothing"
            help = f"put {step.use} before {mixing}"
        elif scope == "mix" and not book.linear_mix:
            message = f"{step.use} mixes rows, and what a teacher says of a mixed row is not the "
            message += "mix of what it says of each, which is all that a book holds"
            help = f"leave {step.use} out, or write `linear_mix: true` if the mix is what you mean"
        elif scope == "mix" and (sparse := [n for n, s in book.store.items() if s.top_k]):
            message = f"{step.use} mixes rows, but {sparse[0]!r} is kept as `top_k`, whose classes "
            message += "differ from row to row"
            help = "keep it dense"
        elif scope == "batch":
            message = f"{step.use} does not say that it changes each row by itself, so no row of a "
            message += "book stands for what it makes"
            help = 'a transform says so by `def scope(self): return "row"`'
        else:
            mixing = mixing or (step.use if scope == "mix" else "")
            continue
        found.append(Diagnostic("KD760", message, place, help))
    return found


def _mixed(spec: Spec, data: DataSet) -> list[Diagnostic]:
    """Values to be kept that are made of columns which only mixing adds."""
    added = {name: t.use for t in data.steps() if t.scope() == "mix" for name in t.adds()}
    found = []
    for ref in stored(spec):
        for name in teachers_side(spec, [ref]).batch:
            if name in added:
                message = f"{ref!r} depends on {name!r}, which {added[name]} draws anew for each "
                message += "batch, so no book can hold it"
                found.append(Diagnostic("KD760", message, spec.span("batch", name)))
    return found


class ViewBatches(Batches):
    """``Batches`` whose draws are a pure function of (seed of the book, view, row).

    Views are taken, ``augment`` and transforms of single rows run row by row, then the values of
    a book join, and transforms that mix rows, or add the same to each batch, come last: their
    draws are those of training.

    Args:
        split: the rows; their numbers are their ids.
        data: how they are read.
        book: the views, and their seed.
        seed: of training.
        shelf: gives the values of a book; left out: none join.
        mixing: whether transforms that do not change single rows run.
        share: the process whose rows are given.
    """

    def __init__(
        self,
        split: Split,
        data: DataSet,
        book: BookSpec,
        *,
        seed: int = 0,
        shelf: Shelf | None = None,
        mixing: bool = True,
        share: Share = (0, 1),
    ) -> None:
        super().__init__(split, data.scaling(), data.augment, data.steps(), seed, share)
        self.book, self.shelf = book, shelf
        self.last = [(a, t) for a, t in self.changing if t.scope() == "none" or mixing]
        self.last = [(at, t) for at, t in self.last if t.scope() != "row"]
        self.changing = [(at, t) for at, t in self.changing if t.scope() == "row"]

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        epoch, number, every = key
        view = epoch % (self.book.views or 1)
        rows = self._own(every, whole=bool(self.last))
        batch = self._each(self._read(rows), self.taking, rows, view)

        def draw(augment: Augment, own: tuple[str, ...]) -> Draws:
            drawn = [draws(1, augment, self._chance("augment", view, row, *own)) for row in rows]
            mirror, by = zip(*drawn, strict=True)
            return torch.cat(mirror), torch.cat(by, 1)

        batch = self._each(self._augmented(batch, draw), self.changing, rows, view)
        joined = self.shelf(torch.tensor(rows), view) if self.shelf is not None else {}
        batch |= joined
        blended = [name for name, value in joined.items() if value.is_floating_point()]
        for at, transform in self.last:
            chance = seeded("transform", self.seed, epoch, number, at)
            if transform.scope() == "mix":
                batch = transform.along(batch, chance, blended)
            else:
                batch = transform.apply(batch, chance)
        return self._normalised(self._parted(batch, len(every)) if self.last else batch)

    def _each(
        self,
        batch: dict[str, Tensor],
        steps: Sequence[tuple[int, Transform]],
        rows: Sequence[int],
        view: int,
    ) -> dict[str, Tensor]:
        """Steps done to each row as if it were a batch."""
        if not steps:
            return batch
        done: list[dict[str, Tensor]] = []
        for place, row in enumerate(rows):
            one = {name: value[place : place + 1] for name, value in batch.items()}
            for at, transform in steps:
                one = transform.apply(one, self._chance("transform", view, row, at))
            done.append(one)
        return {name: torch.cat([one[name] for one in done]) for name in done[0]}

    def _chance(self, what: str, view: int, row: int, *own: object) -> torch.Generator:
        return seeded(what, "view", self.book.seed, view, row, *own)


class Viewed(Split):
    """The rows of a split in views, and with what a book holds of them."""

    def __init__(self, whole: Split, book: BookSpec, shelf: Shelf | None = None) -> None:
        self.whole, self.book, self.shelf = whole, book, shelf

    @property
    def columns(self) -> tuple[str, ...]:
        return self.whole.columns

    def __len__(self) -> int:
        return len(self.whole)

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return self.whole.rows(indices)

    def subset(self, indices: Tensor) -> Split:
        return self.whole.subset(indices)  # whose rows have other numbers

    def labels(self) -> Tensor | None:
        return self.whole.labels()

    def held(self) -> Mapping[str, Tensor]:
        return self.whole.held()

    def files(self) -> list[Path]:
        return self.whole.files()

    def batches(self, data: DataSet, seed: int, share: Share = (0, 1)) -> ViewBatches:
        """What makes training batches of them."""
        return ViewBatches(self.whole, data, self.book, seed=seed, shelf=self.shelf, share=share)


class _InTurn(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Batches of one view in the order of ids, each with the ids that are new in it."""

    def __init__(
        self, batches: ViewBatches, view: int, parts: Sequence[tuple[int, int]], size: int
    ):
        self.batches, self.view, self.parts, self.size = batches, view, parts, size

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        start, stop = self.parts[number]
        rows = [row % len(self.batches.split) for row in range(start, start + self.size)]
        return torch.arange(start, stop), self.batches[self.view, number, rows]


def view_loader(
    split: Split, data: DataSet, book: BookSpec, view: int, *, first: int = 0,
    stop: int | None = None,
) -> DataLoader[tuple[Tensor, dict[str, Tensor]]]:  # fmt: skip
    """Rows ``first`` to ``stop`` of a view in order, for a book to be made of.

    Yields ids [n] and a batch whose first n rows are theirs. Batches are as large as those of
    training, also where n is smaller, and filled up with the rows that follow: how a network
    rounds may depend on how many rows it is given, and a book is to hold the very values of
    training. Transforms that mix rows are left out.
    """
    size = min(data.batch_size, len(split))
    end = len(split) if stop is None else stop
    parts = [(start, min(start + size, end)) for start in range(first, end, size)]
    batches = ViewBatches(split, data, book, mixing=False)
    return DataLoader(_InTurn(batches, view, parts, size), batch_size=None,
                      num_workers=data.workers)  # fmt: skip
