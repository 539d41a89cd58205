"""A part of the classes of a data set, under new numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kdgraph.errors import DataError, Diagnostic
from kdgraph.signals.select_classes import SelectClasses
from kdgraph.spec.language import Spec
from kdgraph.train.data._split import Split
from kdgraph.train.data.base import Splits
from kdgraph.train.derive import to_train


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

    def held(self) -> Mapping[str, Tensor]:
        held = self.whole.held()
        return {**held, "/table": self.table} if held else {}

    def files(self) -> list[Path]:
        return self.whole.files()


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


def out_of_order(spec: Spec, chosen: tuple[int, ...]) -> list[Diagnostic]:
    """Signals that give a teacher's logits for the student's classes, but not in their order.

    Each class would learn the target of another. The order is known of teachers that are trained
    first: on all classes of the data, by its numbers, or on the chosen ones, as 0, 1, ... Those
    that come trained may count classes in a way of their own, which is taken as written.
    """
    there = spec.span("data", "select_classes") or "`data`"
    found = []
    for name, signal in spec.signals.items():
        if not isinstance(signal, SelectClasses) or len(signal.written) != len(chosen):
            continue
        models = {spec.network(m) for m in _frozen_behind(spec, signal.of)}
        if models.isdisjoint(to_train(spec)):
            continue
        message = f"the signal {name!r} takes {_listed(signal.written)} for the classes that "
        message += f"`select_classes` makes of {_listed(chosen)}"
        wanted, why = chosen, f"as at {there}"
        if not (spec.train and spec.train.teacher and spec.train.teacher.classes):
            wanted, why = tuple(range(len(chosen))), "for the teacher learns these numbers"
        if signal.written != wanted:
            place = spec.span("signals", name, "classes")
            help = f"write `classes: {_listed(wanted)}`, {why}"
            found.append(Diagnostic("KD711", message, place, help))
    return found


def _frozen_behind(spec: Spec, ref: str) -> set[str]:
    """The frozen models that a reference leads to, through no other choice of classes."""
    if (signal := spec.signals.get(ref)) is not None:
        inner = [] if isinstance(signal, SelectClasses) else signal.references()
        return {model for _, of in inner for model in _frozen_behind(spec, of)}
    model = ref.partition(".")[0]
    return {model} if model in spec.models and not spec.is_trainable(model) else set()


def _listed(classes: Sequence[int]) -> str:
    return f"[{', '.join(map(str, classes))}]"
