"""Batches in an order that depends on nothing but the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from kdgraph.spec.data import Augment, Normalise
from kdgraph.train.data._split import Split, seeded
from kdgraph.train.data.base import DataSet
from kdgraph.train.data.transforms.base import Transform

Key = tuple[int, int, list[int]]  # epoch, number of the batch in it, rows


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Training batches of an epoch: full ones, or a single one of all rows if they are few."""
    return max(1, rows // batch_size)


def train_loader(
    split: Split, data: DataSet, *, seed: int, epoch: int = 0, done: int = 0
) -> DataLoader[dict[str, Tensor]]:
    """The batches of one epoch from batch number ``done`` on.

    Order, augmentation and transforms are a pure function of (seed, epoch, batch), so that a run
    taken up in the middle sees what it would have seen.
    """
    order = Epoch(len(split), data.batch_size, seed=seed, epoch=epoch, done=done)
    batches = Batches(split, data.scaling(), data.augment, data.steps(), seed)
    return _loader(batches, order, data.workers)


def eval_loader(split: Split, data: DataSet) -> DataLoader[dict[str, Tensor]]:
    """Every row once, in order, neither augmented nor transformed."""
    return _loader(Batches(split, data.scaling()), Ordered(len(split), data.batch_size),
                   data.workers)  # fmt: skip


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


class Batches(Dataset[dict[str, Tensor]]):
    """Reads a batch and makes of it what a model sees; images of bytes are scaled to 0 .. 1.

    In this order: views are taken, ``augment`` draws for its entry and for each view of it, the
    other transforms run as they are listed, and ``normalise`` takes its entry and the views.
    """

    def __init__(
        self,
        split: Split,
        scaling: Normalise | None,
        augment: Augment | None = None,
        transforms: Sequence[Transform] = (),
        seed: int = 0,
    ) -> None:
        self.split, self.scaling, self.augment, self.seed = split, scaling, augment, seed
        numbered = list(enumerate(transforms))
        self.taking = [(at, t) for at, t in numbered if t.views()]
        self.changing = [(at, t) for at, t in numbered if not t.views()]

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        epoch, number, rows = key
        batch = self.split.rows(rows)
        for name, value in batch.items():
            if value.dtype == torch.uint8 and value.dim() == 4:
                batch[name] = value.float().div_(255)
        batch = self._transformed(batch, self.taking, epoch, number)
        if self.augment is not None:
            for name, own in self._with_views(self.augment.entry).items():
                chance = seeded("augment", self.seed, epoch, number, *own)
                batch[name] = augmented(batch[name], self.augment, chance)
            if (labels := self.augment.labels) is not None:
                chance = seeded("augment", self.seed, epoch, number)  # as for the images
                moved = batch[labels].unsqueeze(1)
                moved = augmented(moved, self.augment, chance, self.augment.ignore_index)
                batch[labels] = moved.squeeze(1)
        batch = self._transformed(batch, self.changing, epoch, number)
        if self.scaling is not None and self.scaling.entry in batch:
            for name in self._with_views(self.scaling.entry):
                batch[name] = normalised(batch[name], self.scaling)
        return batch

    def _transformed(
        self, batch: dict[str, Tensor], steps: list[tuple[int, Transform]], epoch: int, number: int
    ) -> dict[str, Tensor]:
        for at, transform in steps:
            chance = seeded("transform", self.seed, epoch, number, at)
            batch = transform.apply(batch, chance)
        return batch

    def _with_views(self, entry: str) -> dict[str, tuple[str, ...]]:
        """The entry and every view of it, or of a view of it: what sets their draws apart."""
        found: dict[str, tuple[str, ...]] = {entry: ()}
        for _, transform in self.taking:
            for name, of in transform.views().items():
                if of in found:
                    found[name] = (name,)
        return found


def normalised(x: Tensor, scaling: Normalise) -> Tensor:
    """``(x - mean) / std`` for each channel of [B, C, H, W]."""
    mean = torch.tensor(scaling.mean).view(-1, 1, 1)
    return (x - mean) / torch.tensor(scaling.std).view(-1, 1, 1)


def augmented(x: Tensor, augment: Augment, chance: torch.Generator, fill: float = 0.0) -> Tensor:
    """Each image of [B, C, H, W] moved, and perhaps mirrored, by itself; ``fill`` comes in."""
    B, _, H, W = x.shape
    if augment.flip:
        mirror = torch.rand(B, generator=chance) < 0.5
        x = torch.where(mirror.view(-1, 1, 1, 1), x.flip(3), x)
    if augment.shift:
        pad = augment.shift
        by = torch.randint(0, 2 * pad + 1, (2, B, 1), generator=chance)
        rows = (by[0] + torch.arange(H)).view(B, 1, H, 1)
        columns = (by[1] + torch.arange(W)).view(B, 1, 1, W)
        image, channel = torch.arange(B).view(B, 1, 1, 1), torch.arange(x.shape[1]).view(-1, 1, 1)
        x = F.pad(x, (pad, pad, pad, pad), value=fill)[image, channel, rows, columns]
    return x
