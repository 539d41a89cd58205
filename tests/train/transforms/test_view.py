"""A view is the sample as it was read, changed and augmented by itself."""

from __future__ import annotations

import pytest
import torch

from kdgraph.errors import DataError
from kdgraph.spec.training import Augment, Normalise
from kdgraph.train.data._load import Batches
from kdgraph.train.data._split import TensorSplit, seeded
from kdgraph.train.data.transforms.base import ImageTransform
from kdgraph.train.data.transforms.mixup import MixUp
from kdgraph.train.data.transforms.view import View

SPLIT = TensorSplit({"image": torch.arange(4 * 49.0).reshape(4, 1, 7, 7) / 196})


def test_views_are_augmented_by_themselves_and_normalised() -> None:
    scaling = Normalise(mean=(0.5,), std=(0.25,))
    batches = Batches(SPLIT, scaling, Augment(shift=2), [View()], seed=3)
    batch = batches[0, 0, [0, 1, 2, 3]]
    plain = Batches(SPLIT, scaling, Augment(shift=2), seed=3)[0, 0, [0, 1, 2, 3]]
    assert torch.equal(batch["image"], plain["image"])  # the view takes nothing from its draw
    assert not torch.equal(batch["view"], batch["image"])
    assert float(batch["view"].min()) == -2.0  # black, shifted in, is normalised too


def test_its_own_transforms_come_before_augment(darker: type[ImageTransform]) -> None:
    batches = Batches(SPLIT, None, None, [View(transforms=(darker(),))])
    batch = batches[0, 0, [2, 0]]
    assert torch.equal(batch["image"], SPLIT.tensors["image"][[2, 0]])
    assert torch.equal(batch["view"], batch["image"] / 2)
    one = View(transforms=(darker(),), name="dark")
    again = View(of="dark", name="darker", transforms=(darker(entry="dark"),))
    batch = Batches(SPLIT, None, Augment(flip=True), [one, again])[0, 0, [1, 3]]
    light = {name: x.sum((1, 2, 3)) for name, x in batch.items()}
    torch.testing.assert_close(light["darker"], light["dark"] / 2)  # each mirrored or not


def test_a_view_holds_nothing_that_adds_columns() -> None:
    with pytest.raises(DataError, match=r"KD711\]: mixup adds columns"):
        View(transforms=(MixUp(),)).columns(("image", "label"))
    batch = View().apply({"image": torch.ones(2)}, seeded("t"))
    assert torch.equal(batch["view"], batch["image"])
