"""How large the book of a spec would be, before anything is built or loaded."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from kdgraph.book import Column, Header
from kdgraph.errors import BookError, KDGraphError
from kdgraph.graph.cost import CannotRun
from kdgraph.graph.example import example_batch, letter_sizes
from kdgraph.graph.fake_step import fake_forward
from kdgraph.spec.frontier import stored
from kdgraph.spec.language import Spec
from kdgraph.teachers import plan_teachers
from kdgraph.train.data._views import views_of
from kdgraph.train.data.base import DataSet
from kdgraph.train.shards import column_of


@dataclass(frozen=True)
class BookSize:
    """What ``kdgraph book build`` would write.

    Attributes:
        columns: what is kept of each row in each view.
        views: of each row; None where they are not known.
        rows: training rows, or at most so many; None where only reading the data tells.
        exact: whether ``rows`` is their number.
        at: sizes that the spec leaves free and that columns were worked out with.
        skipped: why there would be no book; what one view would hold is known all the same
            where there are ``columns``.
    """

    columns: tuple[Column, ...] = ()
    views: int | None = None
    rows: int | None = None
    exact: bool = False
    at: tuple[tuple[str, int], ...] = ()
    skipped: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``--format json``."""
        skipped = {"skipped": self.skipped} if self.skipped is not None else {}
        if not self.columns:
            return skipped
        header = Header.plan(self.columns, {}, self.rows or 0)
        view = None if self.rows is None else header.total_bytes
        return {
            **skipped,
            "columns": [{**column.as_dict(), "bytes": column.bytes} for column in self.columns],
            "at": dict(self.at),
            "sample_bytes": header.sample_bytes,
            "rows": self.rows,
            "rows_exact": self.exact,
            "view_bytes": view,
            "views": self.views,
            "bytes": None if view is None or self.views is None else view * self.views,
        }


def book_size(spec: Spec, *, trust: Collection[str] = ()) -> BookSize:
    """The size of the book of a spec with a ``data`` block, from shapes alone.

    Args:
        spec: as written, with all its stages.
        trust: modules that ``python/`` models may come from.
    """
    if not isinstance(spec.data, DataSet):
        return BookSize(skipped="the spec has no `data` block, so there are no rows to keep")
    wanted = stored(spec)
    if not wanted:
        return BookSize(skipped="no edge reads anything that depends on frozen models alone")
    views, why = _views(spec, spec.data)
    try:
        graph = plan_teachers(spec, list(wanted), trust=trust)
        found = fake_forward(graph, example_batch(graph.spec), nullcontext())
        known = SimpleNamespace(
            shapes={ref: tuple(value.shape[1:]) for ref, value in found.items()},
            dtypes={ref: value.dtype for ref, value in found.items()},
        )
        module: Any = known  # all that is read of a module of teachers
        columns = tuple(column_of(ref, kept, module, spec) for ref, kept in wanted.items())
    except KDGraphError as error:
        return BookSize(skipped=error.diagnostics[0].message)
    except CannotRun as reason:
        return BookSize(skipped=f"the teachers do not run without values: {reason}")
    rows, exact = _rows(spec, spec.data)
    first = {entry.shape[0] for entry in spec.batch.values()}
    letters = letter_sizes(graph.spec).items()
    free = tuple((x, n) for x, n in letters if x not in first)
    return BookSize(columns, views, rows, exact, free, why)


def _views(spec: Spec, data: DataSet) -> tuple[int | None, str | None]:
    """The views of a row; or why rows cannot be kept."""
    try:
        return views_of(spec, data).views, None
    except BookError as error:
        return None, error.diagnostics[0].message


def _rows(spec: Spec, data: DataSet) -> tuple[int | None, bool]:
    """Training rows, as far as they are known, and whether that is their number."""
    rows = None if data.select_classes is not None else data.known_rows()
    exact = rows is not None
    if data.limit is not None:
        rows = data.limit if rows is None else min(rows, data.limit)
    if data.shots is not None:
        entry = spec.batch.get("label")
        classes = entry.classes if entry is not None else None
        if classes is None:
            return rows, False
        rows, exact = data.shots * classes, True
    return rows, exact
