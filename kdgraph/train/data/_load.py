"""Batches in an order that depends on nothing but the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from kdgraph.train.data._batches import Batches, Key, Share
from kdgraph.train.data._split import Split, seeded
from kdgraph.train.data._views import Viewed
from kdgraph.train.data.base import DataSet


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Training batches of an epoch: full ones, or a single one of all rows if they are few."""
    return max(1, rows // batch_size)


def train_loader(
    split: Split, data: DataSet, *, seed: int, epoch: int = 0, done: int = 0,
    share: Share = (0, 1),
) -> DataLoader[dict[str, Tensor]]:  # fmt: skip
    """The batches of one epoch from batch number ``done`` on.

    Order, augmentation and transforms are a pure function of (seed, epoch, batch), so that a run
    taken up in the middle sees what it would have seen; of rows in views (``Viewed``) what is
    random depends on the view and the row. Of each batch a process takes its ``share``.
    """
    order = Epoch(len(split), data.batch_size, seed=seed, epoch=epoch, done=done)
    if isinstance(split, Viewed):
        return _loader(split.batches(data, seed, share), order, data.workers)
    batches = Batches(split, data.scaling(), data.augment, data.steps(), seed, share)
    return _loader(batches, order, data.workers)


def eval_loader(
    split: Split, data: DataSet, share: Share = (0, 1)
) -> DataLoader[dict[str, Tensor]]:
    """Every row once, in order, neither augmented nor transformed; of each batch a ``share``.

    There are as many batches for each process. Where one has no row of a batch it is given one of
    another process, and the key ``STAND_IN``.
    """
    batches = Batches(split, data.scaling(), share=share)
    return _loader(batches, Ordered(len(split), data.batch_size), data.workers)


def _loader(batches: Batches, order: Sampler[Key], workers: int) -> DataLoader[dict[str, Tensor]]:
    # batch_size=None: the sampler yields whole batches and the data set reads them at once,
    # which for data in memory is one indexing instead of a loop over rows
    return DataLoader(batches, batch_size=None, sampler=order, num_workers=workers)


class Epoch(Sampler[Key]):
    """The rows of each training batch."""

    def __init__(self, rows: int, batch_size: int, *, seed: int, epoch: int, done: int) -> None:
        self.rows, self.batch_size = rows, batch_size
        self.seed, self.epoch, self.done = seed, epoch, done

    def __len__(self) -> int:
        return steps_per_epoch(self.rows, self.batch_size) - self.done

    def __iter__(self) -> Iterator[Key]:
        order = torch.randperm(self.rows, generator=seeded("order", self.seed, self.epoch))
        for number in range(self.done, self.done + len(self)):
            start = number * self.batch_size
            yield self.epoch, number, order[start : start + self.batch_size].tolist()


class Ordered(Sampler[Key]):
    """All rows as they lie."""

    def __init__(self, rows: int, batch_size: int) -> None:
        self.rows, self.batch_size = rows, batch_size

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[Key]:
        for number in range(len(self)):
            start = number * self.batch_size
            yield 0, number, list(range(start, min(start + self.batch_size, self.rows)))
