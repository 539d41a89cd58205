"""A view is the sample as it was read, changed and augmented by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml

import kdgraph
from kdgraph.errors import DataError
from kdgraph.spec.data import Augment, Normalise
from kdgraph.train.data._batches import Batches
from kdgraph.train.data._open import open_data
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
    again = View(of="dark", name="darker", transforms=(darker(),))  # of what the view is of
    batch = Batches(SPLIT, None, Augment(flip=True), [one, again])[0, 0, [1, 3]]
    light = {name: x.sum((1, 2, 3)) for name, x in batch.items()}
    torch.testing.assert_close(light["darker"], light["dark"] / 2)  # each mirrored or not


def test_a_view_holds_nothing_that_adds_columns() -> None:
    with pytest.raises(DataError, match=r"KD711\]: mixup adds columns"):
        View(transforms=(MixUp(),)).columns(("image", "label"))
    batch = View().apply({"image": torch.ones(2)}, seeded("t"))
    assert torch.equal(batch["view"], batch["image"])


def test_its_own_transforms_are_of_what_it_is_of(make_spec: Any) -> None:
    step = {"use": "rotate", "degrees": 45}
    views = [{"use": "view"}, {"use": "view", "of": "view", "name": "turned", "transforms": [step]}]
    text = make_spec(data={"transforms": views})
    shape = {"shape": ["B", 1, 8, 8]}
    text["batch"] |= {"view": shape, "turned": shape}
    data, _ = open_data(kdgraph.load_spec(text))
    (_, view) = data.steps()
    assert isinstance(view, View)
    assert view.transforms[0].model_dump()["entry"] == "view"
    batch = view.apply({name: torch.rand(2, 1, 8, 8) for name in ("image", "view")}, seeded("t"))
    assert not torch.equal(batch["turned"], batch["view"])
    step["entry"] = "image"
    spec = kdgraph.load_spec(yaml.safe_dump(text, sort_keys=False))
    with pytest.raises(
        DataError, match=r"KD711\]: rotate in a view of 'view' reads image"
    ) as error:
        open_data(spec)
    assert error.value.diagnostics[0].span == spec.span("data", "transforms", 1)
