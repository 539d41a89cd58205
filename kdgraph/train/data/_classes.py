"""A part of the classes of a data set, under new numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdgraph.errors import DataError
from kdgraph.train.data._split import Split
from kdgraph.train.data.base import Splits


class Renumbered(Split):
    """The rows of another split with its labels looked up in a table, all at once.

    Replacing one number after the other would merge classes: where 7 becomes 3 and 3 becomes 4,
    every 7 would end up as 4.
    """

    def __init__(self, whole: Split, table: Tensor) -> None:
        self.whole = whole
        self.table = table

    @property
    def columns(self) -> tuple[str, ...]:
        return self.whole.columns

    def __len__(self) -> int:
        return len(self.whole)

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        batch = self.whole.rows(indices)
        return {**batch, "label": self.table[batch["label"].long()]}

    def subset(self, indices: Tensor) -> Renumbered:
        return Renumbered(self.whole.subset(indices), self.table)

    def labels(self) -> Tensor | None:
        labels = self.whole.labels()
        return None if labels is None else self.table[labels.long()]


def select_classes(splits: Splits, classes: Sequence[int]) -> Splits:
    """The rows of some classes, which become 0, 1, ... in the order given; no unlabelled ones.

    Raises:
        DataError: KD719 when there is no column of class numbers that can be looked through, or
            a class has no rows to train on.
    """
    train, val = _selected(splits.train, classes), _selected(splits.val, classes)
    test = None if splits.test is None else _selected(splits.test, classes)
    labels = train.labels()
    assert labels is not None
    for new, old in enumerate(classes):
        if not (labels == new).any():
            raise DataError.of("KD719", f"the training part has no row of class {old}")
    kept = ", ".join(map(str, classes))
    return Splits(train, val, test, f"{splits.note}; classes {kept} alone, numbered from 0")


def _selected(part: Split, classes: Sequence[int]) -> Split:
    labels = part.labels()
    if labels is None or labels.dim() != 1 or labels.is_floating_point():
        raise DataError.of(
            "KD719",
            "select_classes needs a column `label` of class numbers that is at hand without "
            "reading every row",
        )
    chosen = torch.tensor(classes)
    table = torch.full((max(classes) + 1,), -1)
    table[chosen] = torch.arange(len(classes))
    # a table would take the -1 or -100 of an unlabelled row as counted from its end
    kept = torch.isin(labels.long(), chosen)
    return Renumbered(part, table).subset(kept.nonzero().squeeze(1))
