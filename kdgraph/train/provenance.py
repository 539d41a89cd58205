"""What a book of a training run is made of: its fingerprint, and what a run expects of one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.book import Book
from kdgraph.book.header import NONE
from kdgraph.book.origin import described, digest, text, weights
from kdgraph.spec.book import BookSpec
from kdgraph.spec.booked import teachers_side
from kdgraph.spec.data import DataEntry
from kdgraph.spec.language import Spec
from kdgraph.train.data._split import Split
from kdgraph.train.data._views import views_of
from kdgraph.train.data.base import DataSet, Splits
from kdgraph.train.derive import teacher_by_itself, to_train
from kdgraph.train.keep import fingerprint

_ROWS = 256  # that tell a data set apart where not all are in memory
_HOW = ("batch_size", "workers", "augment", "transforms", "normalise")  # rows are read, not which


def provenance(
    spec: Spec,
    data: DataSet,
    splits: Splits,
    references: Collection[str],
    networks: Mapping[str, nn.Module],
    without: Collection[str] = (),
    also: Collection[str] = (),
) -> dict[str, str]:
    """The fingerprint of a book.

    Keys are ``weights.teacher``, ``subgraph.models.teacher.args``, ``transform.augment``,
    ``data.rows`` and so on, so that what differs has a name.

    Args:
        spec: as written; teachers that are trained first have no weights in it.
        data: as opened.
        splits: its parts; the book is of the first.
        references: what the book holds.
        networks: the teachers, with their weights.
        without: optional passes that are left out.
        also: optional passes that are run, too.
    """
    versions = {"versions.kdgraph": kdgraph.__version__, "versions.torch": torch.__version__}
    side = teachers_side(spec, references)
    own = {name: net for name, net in networks.items() if name in side.models}
    return (
        described(spec, references)
        | weights(side, own)
        | _training(spec, side)
        | _transform(spec, data, views_of(spec, data))
        | _rows(data, splits)
        | _passes(side, without, also)
        | versions
    )


def check_origin(
    book: Book, spec: Spec, data: DataSet, splits: Splits, references: Collection[str]
) -> None:
    """Refuses a book of other rows, other views or other teachers than a run is of.

    Weights of teachers are compared where the spec names a file that is there; of teachers that
    the run would train first, how they are trained; others were not trained for the book.

    Raises:
        BookError: KD763 with each field that differs.
    """
    asked = views_of(spec, data)
    side = teachers_side(spec, references)
    untrained = {f"weights.{name}.training": NONE for name in side.networks}
    wanted = (
        described(spec, references)
        | weights(side, {})
        | untrained
        | _training(spec, side)
        | _transform(spec, data, asked)
        | _rows(data, splits)
    )
    if (asked.views or 1) <= book.views:
        del wanted["transform.views"]  # it has those and more
    book.check(wanted)


def _passes(side: Spec, without: Collection[str], also: Collection[str]) -> dict[str, str]:
    """By which passes values come about; that of precision is no matter of rounding."""
    exact = [name for name in side.models if "precision" in without]
    return {f"subgraph.models.{name}.precision": text(None) for name in exact} | {
        "subgraph.passes.without": text(sorted(without)),
        "subgraph.passes.also": text(sorted(also)),
    }


def _training(spec: Spec, side: Spec) -> dict[str, str]:
    """How teachers are trained first, each as one text."""
    if spec.train is None or spec.train.teacher is None:
        return {}
    own = {name: teacher_by_itself(spec, name) for name in to_train(spec) if name in side.models}
    return {
        f"weights.{name}.training": fingerprint(one, one.train.seed if one.train else 0, {})
        for name, one in own.items()
    }


def _transform(spec: Spec, data: DataSet, book: BookSpec) -> dict[str, str]:
    """What is done to a row before teachers see it."""
    steps = [
        [at, step.model_dump(mode="json", serialize_as_any=True)]
        for at, step in enumerate(data.steps())
        if step.scope() == "row"
    ]
    scaling = data.scaling()
    return {
        "transform.augment": text(data.augment and data.augment.model_dump(mode="json")),
        "transform.transforms": text(steps),
        "transform.normalise": text(scaling and scaling.model_dump(mode="json")),
        "transform.views": text(book.views),
        "transform.seed": text(book.seed),
    }


def _rows(data: DataSet, splits: Splits) -> dict[str, str]:
    """Which rows there are, in which order."""
    said = {key: getattr(data, key) for key in DataEntry.model_fields if key not in _HOW}
    found = {f"data.{key}": text(value) for key, value in said.items()}
    rows = splits.train
    return {**found, "data.rows": text(len(rows)), "data.content": content(rows)}


def content(split: Split) -> str:
    """A digest of all rows in memory, else of the labels and of rows spread over all of them.

    Of rows in files also of the names and sizes of all files, in the order of rows.
    """
    if held := split.held():
        return digest(held)
    labels = split.labels()
    found = {} if labels is None else {"labels": labels}
    if files := split.files():
        told = "\n".join(f"{file.name} {file.stat().st_size}" for file in files)
        found["files"] = torch.frombuffer(bytearray(told.encode()), dtype=torch.uint8)
    return digest(found | dict(_spread(split)))


def _spread(split: Split) -> Iterator[tuple[str, Tensor]]:
    """Some rows, each column by itself, as they are read."""
    count = min(len(split), _ROWS)
    for at in range(count):
        row = at * len(split) // count
        for name, value in split.rows([row]).items():
            yield f"{row}/{name}", value
