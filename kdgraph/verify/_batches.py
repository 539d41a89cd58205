"""Batches to try a spec on: the first ones of its training, or random ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import count, islice
from typing import NamedTuple

import torch
from torch import Tensor

from kdgraph.errors import DataError
from kdgraph.graph.example import letter_sizes
from kdgraph.spec.language import Spec
from kdgraph.train.booked import in_views
from kdgraph.train.course import Course
from kdgraph.train.data._load import train_loader
from kdgraph.train.data._open import open_data

Batch = dict[str, Tensor]
_ROWS = 16  # of a random batch


class Tried(NamedTuple):
    """Batches on the CPU.

    Attributes:
        batches: as many as were asked for.
        origin: what they are, in words.
        note: why they are random though the spec has data.
    """

    batches: list[Batch]
    origin: str
    note: str | None = None


def tried(spec: Spec, number: int, rows: int | None, trust: Collection[str]) -> Tried:
    """The first training batches of a spec with data that is at hand, else random ones.

    Args:
        spec: with its ``data`` block, if it has one.
        number: of batches.
        rows: of a batch; left out: as training has.
        trust: modules that ``python/`` data may come from.

    Raises:
        DataError: where the data is at hand but not what it should be.
    """
    if spec.data is None:
        return _made(spec, number, rows)
    try:
        found = list(islice(_read(spec, rows, trust), number))
    except DataError as error:
        if any(d.code != "KD710" for d in error.diagnostics):
            raise
        why = f"the data cannot be had: {error.diagnostics[0].message}"
        return _made(spec, number, rows)._replace(note=why)
    return Tried(found, f"first training batch of {spec.data.use}, {_told(spec, found[0])}")


def _read(spec: Spec, rows: int | None, trust: Collection[str]) -> Iterator[Batch]:
    """Batches of training, epoch after epoch."""
    data, splits = open_data(spec, trust)
    train = in_views(spec, data, splits, None).splits.train
    data = Course(spec, data, len(train)).data
    changes = {"workers": 0, "batch_size": min(rows or data.batch_size, len(train))}
    data, seed = data.model_copy(update=changes), spec.train.seed if spec.train else 0
    for epoch in count():
        for batch in train_loader(train, data, seed=seed, epoch=epoch):
            yield {name: batch[name] for name in spec.batch}


def _made(spec: Spec, number: int, rows: int | None) -> Tried:
    torch.manual_seed(0)
    found = [random_batch(spec, rows or _ROWS) for _ in range(number)]
    return Tried(found, f"random batch, {_told(spec, found[0])}")


def random_batch(spec: Spec, rows: int) -> Batch:
    """Normal numbers, shares between a half and 1, lengths of 1, labels of all classes."""
    sizes = letter_sizes(spec, rows)
    found: Batch = {}
    for name, entry in spec.batch.items():
        shape = [sizes[s] if isinstance(s, str) else s for s in entry.shape]
        dtype: torch.dtype = getattr(torch, entry.dtype)
        if dtype.is_floating_point:
            value = torch.randn(shape) if len(shape) > 1 else 0.5 + torch.rand(shape) / 2
        elif entry.classes is None and len(shape) == 1:
            value = torch.ones(shape)
        else:
            value = torch.randint(0, entry.classes or 2, shape)
        found[name] = value.to(dtype)
    return found


def _told(spec: Spec, batch: Batch) -> str:
    """The sizes of a batch, in words."""
    letters = {
        letter: size
        for name, entry in spec.batch.items()
        for letter, size in zip(entry.shape, batch[name].shape, strict=True)
        if isinstance(letter, str)
    }
    return ", ".join(f"{letter} = {size}" for letter, size in letters.items()) or "of fixed size"
