"""A run that reads a book, or that sees its rows in the views of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kdgraph.book.header import HEADER
from kdgraph.spec.booked import with_book
from kdgraph.spec.language import Spec
from kdgraph.teachers import columns_of, open_book, pages
from kdgraph.train.data._views import Viewed, views_of
from kdgraph.train.data.base import DataSet, Splits
from kdgraph.train.provenance import check_origin


@dataclass(frozen=True)
class Booked:
    """What a run is of, once it is known whether it reads a book.

    Attributes:
        spec: with what the book gives in the batch, and without its teachers.
        splits: the parts of the data; training rows come in views.
        files: what of the book tells runs apart.
    """

    spec: Spec
    splits: Splits
    files: Mapping[str, Path] = field(default_factory=dict)


def in_views(spec: Spec, data: DataSet, splits: Splits, book: str | Path | None) -> Booked:
    """The run of a spec with a ``book`` block, or on a book; any other one as it is.

    Args:
        spec: as written.
        data: as opened.
        splits: its parts.
        book: the folder of a book; None trains with the teachers, on the same views.

    Raises:
        BookError: KD760 where the spec has no book, KD761 or KD762 where there is none that can
            be read or a shard is damaged, KD763 with each field in which the book is not of this
            run.
    """
    if book is None and spec.book is None:
        return Booked(spec, splits)
    asked = views_of(spec, data, booked=book is not None)
    if book is None:
        return Booked(spec, replace(splits, train=Viewed(splits.train, asked)))
    found = open_book(book)
    columns = columns_of(spec, found)
    check_origin(found, spec, data, splits, [column.name for column in columns])
    found.check_content()  # once, and not in each process that loads samples
    rows = Viewed(splits.train, asked, pages(spec, found))
    files = {"book": found.path / HEADER}
    return Booked(with_book(spec, columns), replace(splits, train=rows), files)
