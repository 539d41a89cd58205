"""A batch as a model sees it: read, augmented, transformed, normalised."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from kdgraph.spec.data import Augment, Normalise
from kdgraph.train.data._split import Split, seeded
from kdgraph.train.data.transforms.base import Transform
from kdgraph.train.ranks import part

Key = tuple[int, int, list[int]]  # epoch, number of the batch in it, rows
Draws = tuple[Tensor, Tensor]  # which images are mirrored, and by how much each is moved
Share = tuple[int, int]  # the number of a process that takes a part of each batch, of how many

STAND_IN = "stand-in"
"""In a batch for evaluation that has fewer rows than there are processes: a row for one of those
that have none, which does not count. No column can be called so."""


class Batches(Dataset[dict[str, Tensor]]):
    """Reads a batch and makes of it what a model sees; images of bytes are scaled to 0 .. 1.

    In this order: views are taken, ``augment`` draws for its entry and for each view of it, the
    other transforms run as they are listed, and ``normalise`` takes its entry and the views.

    With a ``share`` it gives the rows of one process, as they are in the whole batch. Then no
    other rows are read, unless there are transforms, which draw for the whole batch.
    """

    def __init__(
        self,
        split: Split,
        scaling: Normalise | None,
        augment: Augment | None = None,
        transforms: Sequence[Transform] = (),
        seed: int = 0,
        share: Share = (0, 1),
    ) -> None:
        self.split, self.scaling, self.augment, self.seed = split, scaling, augment, seed
        self.share = share
        numbered = list(enumerate(transforms))
        self.taking = [(at, t) for at, t in numbered if t.views()]
        self.changing = [(at, t) for at, t in numbered if not t.views()]
        self.last: list[tuple[int, Transform]] = []

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        epoch, number, rows = key
        if not self._own(rows, whole=False):
            return {**self[epoch, number, rows[:1] * self.share[1]], STAND_IN: torch.ones(())}
        whole = bool(self.taking or self.changing)
        batch = self._transformed(self._read(self._own(rows, whole)), self.taking, epoch, number)

        def draw(augment: Augment, own: tuple[str, ...]) -> Draws:
            chance = seeded("augment", self.seed, epoch, number, *own)
            mirror, by = draws(len(rows), augment, chance)
            at = part(len(rows), (0, 1) if whole else self.share)
            return mirror[at], by[:, at]

        batch = self._transformed(self._augmented(batch, draw), self.changing, epoch, number)
        return self._normalised(self._parted(batch, len(rows)) if whole else batch)

    def _own(self, rows: list[int], whole: bool) -> list[int]:
        """The rows that are read."""
        return rows if whole else rows[part(len(rows), self.share)]

    def _parted(self, batch: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
        """This process's rows of a whole batch; what is not of rows stays."""
        steps = [t for _, t in (*self.taking, *self.changing, *self.last)]
        other = {name for t in steps if t.scope() == "none" for name in t.adds()}
        return {
            name: value
            if name in other or value.shape[:1] != (rows,)
            else value[part(rows, self.share)]
            for name, value in batch.items()
        }

    def _read(self, rows: Sequence[int]) -> dict[str, Tensor]:
        batch = self.split.rows(rows)
        for name, value in batch.items():
            if value.dtype == torch.uint8 and value.dim() == 4:
                batch[name] = value.float().div_(255)
        return batch

    def _augmented(
        self, batch: dict[str, Tensor], draw: Callable[[Augment, tuple[str, ...]], Draws]
    ) -> dict[str, Tensor]:
        if (augment := self.augment) is None:
            return batch
        for name, own in self._with_views(augment.entry).items():
            batch[name] = moved(batch[name], augment, draw(augment, own))
        if (labels := augment.labels) is not None:  # as the images
            maps = batch[labels].unsqueeze(1)
            batch[labels] = moved(maps, augment, draw(augment, ()), augment.ignore_index).squeeze(1)
        return batch

    def _normalised(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
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


def augmented(x: Tensor, augment: Augment, chance: torch.Generator) -> Tensor:
    """Each image of [B, C, H, W] moved, and perhaps mirrored, by itself."""
    return moved(x, augment, draws(len(x), augment, chance))


def draws(B: int, augment: Augment, chance: torch.Generator) -> Draws:
    """Which of B images are mirrored, [B], and by how much each is moved, [2, B, 1]."""
    mirror, by = torch.zeros(B, dtype=torch.bool), torch.zeros(2, B, 1, dtype=torch.int64)
    if augment.flip:
        mirror = torch.rand(B, generator=chance) < 0.5
    if augment.shift:
        by = torch.randint(0, 2 * augment.shift + 1, (2, B, 1), generator=chance)
    return mirror, by


def moved(x: Tensor, augment: Augment, drawn: Draws, fill: float = 0.0) -> Tensor:
    """Each image of [B, C, H, W] mirrored and moved by itself, as drawn; ``fill`` comes in."""
    B, _, H, W = x.shape
    mirror, by = drawn
    if augment.flip:
        x = torch.where(mirror.view(-1, 1, 1, 1), x.flip(3), x)
    if augment.shift:
        pad = augment.shift
        rows = (by[0] + torch.arange(H)).view(B, 1, H, 1)
        columns = (by[1] + torch.arange(W)).view(B, 1, 1, W)
        image, channel = torch.arange(B).view(B, 1, 1, 1), torch.arange(x.shape[1]).view(-1, 1, 1)
        x = F.pad(x, (pad, pad, pad, pad), value=fill)[image, channel, rows, columns]
    return x
