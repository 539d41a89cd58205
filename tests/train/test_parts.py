"""What each of several processes reads: together the very batches of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdgraph.spec.book import BookSpec
from kdgraph.train.data._batches import STAND_IN
from kdgraph.train.data._load import eval_loader, train_loader
from kdgraph.train.data._split import Split, TensorSplit
from kdgraph.train.data._views import Viewed
from kdgraph.train.data.digits import Digits
from kdgraph.train.data.transforms.class_weights import ClassWeights
from kdgraph.train.data.transforms.mixup import MixUp
from kdgraph.train.data.transforms.rotate import Rotate
from kdgraph.train.ranks import part

ROWS = 23
SPLIT = TensorSplit({
    "image": torch.rand(ROWS, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
    "label": torch.arange(ROWS) % 7,
})  # fmt: skip
WEIGHTS = ClassWeights(weights=tuple(float(i) for i in range(7)))  # as many as a batch has rows
DATA: dict[str, Any] = {
    "augment": {"shift": 2, "flip": True},
    "normalise": {"mean": [0.5], "std": [2.0]},
}


class Counting(TensorSplit):
    """Notes which rows are asked for."""

    def __init__(self) -> None:
        super().__init__(SPLIT.tensors)
        self.asked: list[int] = []

    def rows(self, indices: Any) -> dict[str, Tensor]:
        self.asked += list(indices)
        return super().rows(indices)


def data(**more: Any) -> Digits:
    return Digits.model_validate({"use": "digits", "batch_size": 7, **DATA, **more})


@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.parametrize(
    "transforms", [(), (Rotate(degrees=30),), (Rotate(degrees=30), MixUp(), WEIGHTS)]
)
def test_parts_are_those_of_the_whole(transforms: Any, views: int | None, world: int) -> None:
    read = data().model_copy(update={"transforms": transforms})
    split: Split = SPLIT if views is None else Viewed(SPLIT, BookSpec(views=views))
    parts = [
        list(train_loader(split, read, seed=3, epoch=1, share=(r, world))) for r in range(world)
    ]
    whole = list(train_loader(split, read, seed=3, epoch=1))
    assert {len(p) for p in parts} == {len(whole)} == {3}
    for batches, batch in zip(zip(*parts, strict=True), whole, strict=True):
        for name, value in batch.items():
            if name == "class_weights":
                assert all(torch.equal(b[name], value) for b in batches)
            else:
                assert torch.equal(torch.cat([b[name] for b in batches]), value), name


@pytest.mark.parametrize("views", [None, 2])
def test_only_own_rows_are_read(views: int | None) -> None:
    asked = []
    for share in ((0, 2), (1, 2)):
        split = Counting()
        list(train_loader(
            split if views is None else Viewed(split, BookSpec(views=views)), data(), seed=0,
            share=share,
        ))  # fmt: skip
        asked.append(split.asked)
    assert not set(asked[0]) & set(asked[1])
    assert len(set(asked[0]) | set(asked[1])) == 21


def test_every_row_is_evaluated_once_and_by_as_many_batches() -> None:
    """Of the last batch, which has two rows, three processes have none."""
    parts = [list(eval_loader(SPLIT, data(), (r, 5))) for r in range(5)]
    assert {len(p) for p in parts} == {4}
    stand_ins = [[STAND_IN in batch for batch in p] for p in parts]
    assert [sum(s) for s in zip(*stand_ins, strict=True)] == [0, 0, 0, 3]
    whole = list(eval_loader(SPLIT, data()))
    for number, batch in enumerate(whole):
        counted = [p[number]["image"] for p in parts if STAND_IN not in p[number]]
        assert torch.equal(torch.cat(counted), batch["image"])
        assert all(len(p[number]["image"]) for p in parts)


@pytest.mark.parametrize("rows", [0, 1, 5, 64, 65])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_parts_are_as_long_as_each_other_or_by_one(rows: int, world: int) -> None:
    lengths = [len(range(rows)[part(rows, (r, world))]) for r in range(world)]
    assert sum(lengths) == rows
    assert max(lengths) - min(lengths) <= 1
