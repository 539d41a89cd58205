"""A step on a book = a step with its teachers, bit for bit in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kdgraph.errors import BookError, DataError, KDGraphError, SpecError
from kdgraph.models.weights import save_weights
from kdgraph.spec.book import StoreSpec
from kdgraph.spec.frontier import stored, why_nothing
from kdgraph.spec.language import Spec
from kdgraph.train.book import build_book
from kdgraph.train.booked import Booked, in_views
from kdgraph.train.data._load import train_loader
from kdgraph.train.data._open import open_data
from kdgraph.train.data.base import DataSet
from kdgraph.train.runner import with_weights
from kdgraph.verify._compare import Result, stepped
from kdgraph.verify._rows import rows_of
from kdgraph.verify._subject import Subject
from kdgraph.verify.base import Finding, NotApplicable, one_sentence, register_check


@register_check("book")
def run(subject: Subject) -> Finding:
    """A book of as many rows as a batch has, built into a folder that is removed."""
    subject = subject.single()
    with tempfile.TemporaryDirectory(prefix="kdgraph-verify-") as name:
        folder = Path(name)
        spec, notes = _small(subject, folder)
        book = folder / "book"
        try:
            build_book(spec, out=book, device=str(subject.device), trust=subject.trust)
        except BookError as error:
            message = f"`book build` takes none of this: {_with_help(error)}"
            raise NotApplicable(message) from error
        live = _step(subject, _rows(subject, spec, None))
        try:
            booked = _step(subject, _rows(subject, spec, book))
        except SpecError as error:  # of a batch in which each row is as long, say, and others not
            message = f"it cannot be compiled with its book: {one_sentence(error)}"
            raise NotApplicable(message) from error
    rows = rows_of(subject.spec, subject.batches[0])
    kept = ", ".join(stored(spec))
    return Finding(
        f"a book of {rows} rows ({kept}) = the teachers", booked.gaps(live), 0.0,
        ("in train mode and float32", *notes),
    )  # fmt: skip


def _small(subject: Subject, folder: Path) -> tuple[Spec, list[str]]:
    """The spec of as many rows as a batch has, its teachers' weights in files, kept exactly.

    Raises:
        NotApplicable: where there is no book of it.
    """
    spec = subject.spec
    if not isinstance(spec.data, DataSet):
        raise NotApplicable("the spec has no `data` block of which a book could be built")
    if not stored(spec):
        why = why_nothing(spec) or "no edge reads anything that depends on frozen models alone"
        raise NotApplicable(f"nothing for a book: {why}")
    rows = rows_of(spec, subject.batches[0])
    changes = {"limit": rows, "shots": None, "batch_size": rows, "workers": 0}
    update: dict[str, Any] = {
        "data": spec.data.model_copy(update=changes),
        "train": spec.train and spec.train.model_copy(update={"teacher": None}),
        "stages": tuple(s.model_copy(update={"batch_size": None}) for s in spec.stages),
    }
    notes = []
    if spec.book is not None and (lossy := [n for n, s in spec.book.store.items() if s != _EXACT]):
        exact = dict.fromkeys(spec.book.store, _EXACT)
        update["book"] = spec.book.model_copy(update={"store": exact})
        notes.append(f"kept as float32 here: {', '.join(lossy)}")
    files = {}
    for name in (n for n in subject.networks if spec.is_constant(n)):
        files[name] = folder / f"{name}.safetensors"
        save_weights(subject.networks[name], files[name])
    return with_weights(spec.model_copy(update=update), files), notes


_EXACT = StoreSpec()


def _with_help(error: KDGraphError) -> str:
    first = error.diagnostics[0]
    return first.message if first.help is None else f"{first.message}; {first.help}"


def _rows(subject: Subject, spec: Spec, book: Path | None) -> tuple[Booked, Mapping[str, Tensor]]:
    """The spec with or without a book, and its first batch."""
    try:
        data, splits = open_data(spec, subject.trust)
    except DataError as error:
        raise NotApplicable(one_sentence(error)) from error
    found = in_views(spec, data, splits, book)
    batch = next(iter(train_loader(found.splits.train, data, seed=0)))
    return found, {name: batch[name].to(subject.device) for name in found.spec.batch}


def _step(subject: Subject, given: tuple[Booked, Mapping[str, Tensor]]) -> Result:
    found, batch = given
    return stepped(subject.step(found.spec), batch)
