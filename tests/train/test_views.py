"""Rows in views: what a row looks like depends on the seed of the book, the view and its id."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import kdgraph
from kdgraph.errors import BookError
from kdgraph.spec.book import BookSpec
from kdgraph.train.data._load import train_loader
from kdgraph.train.data._open import open_data
from kdgraph.train.data._split import TensorSplit
from kdgraph.train.data._views import ViewBatches, Viewed, view_loader, views_of
from kdgraph.train.data.base import DataSet
from kdgraph.train.data.transforms.base import Transform

SPLIT = TensorSplit({"image": torch.rand(40, 1, 8, 8), "label": torch.arange(40) % 10})
RANDOM: dict[str, Any] = {
    "augment": {"shift": 2, "flip": True},
    "transforms": [{"use": "rotate"}, {"use": "color_jitter"}, {"use": "view", "name": "second"}],
    "batch_size": 10,
}


def data(**keys: Any) -> DataSet:
    spec = kdgraph.load_spec({
        "kdgraph": 1, "name": "views",
        "batch": {"image": {"shape": ["B", 1, 8, 8]}},
        "models": {"student": {"source": "cifar/resnet8", "taps": {"logits": "output"}}},
        "losses": {"calm": {"use": "confidence_penalty", "student": "student.logits"}},
        "data": {"use": "digits", **keys},
    })  # fmt: skip
    assert isinstance(spec.data, DataSet)
    return spec.data


def rows(ids: list[int], *, epoch: int = 0, number: int = 0, seed: int = 0, **book: Any) -> Any:
    batches = ViewBatches(SPLIT, data(**RANDOM), BookSpec(**{"views": 3, **book}), seed=seed)
    return batches[epoch, number, ids]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_row_is_the_same_in_any_company() -> None:
    one, other = rows([4, 7, 31]), rows([31, 2, 4], number=5, seed=9)
    assert {"image", "label", "second"} == set(one)
    for name in one:
        assert torch.equal(one[name][[2, 0]], other[name][[0, 2]])
    assert not torch.equal(one["image"], one["second"])


def test_the_view_of_an_epoch_comes_round() -> None:
    ids = list(range(10))
    assert same(rows(ids, epoch=1), rows(ids, epoch=4, number=3, seed=2))
    assert not torch.equal(rows(ids)["image"], rows(ids, epoch=1)["image"])


def test_the_seed_of_the_book_draws_other_views() -> None:
    batches = [ViewBatches(SPLIT, data(**RANDOM), BookSpec(views=1, seed=s)) for s in (0, 1)]
    a, b = (one[0, 0, [1, 2]] for one in batches)
    assert not torch.equal(a["image"], b["image"])


def test_what_a_book_is_made_of_is_what_training_sees() -> None:
    read, book = data(**RANDOM), BookSpec(views=2, seed=5)
    seen: dict[int, Tensor] = {}
    for ids, batch in view_loader(SPLIT, read, book, 1):
        seen |= dict(zip(ids.tolist(), batch["image"], strict=False))
    assert sorted(seen) == list(range(40))
    plain = {**SPLIT.tensors, "id": torch.arange(40)}
    for batch in train_loader(Viewed(TensorSplit(plain), book), read, seed=3, epoch=3):
        for row, image in zip(batch["id"].tolist(), batch["image"], strict=True):
            assert torch.equal(seen[row], image)


def test_batches_of_a_book_are_always_full() -> None:
    parts = list(view_loader(SPLIT, data(batch_size=16), BookSpec(), 0, first=8))
    assert [ids.tolist()[:: len(ids) - 1] for ids, _ in parts] == [[8, 23], [24, 39]]
    parts = list(view_loader(SPLIT, data(batch_size=16), BookSpec(), 0, first=32, stop=40))
    ((ids, batch),) = parts
    assert ids.tolist() == list(range(32, 40))
    assert torch.equal(batch["label"], SPLIT.tensors["label"][[*range(32, 40), *range(8)]])
    few = list(view_loader(SPLIT, data(batch_size=64), BookSpec(), 0))
    assert [len(batch["label"]) for _, batch in few] == [40]


@pytest.mark.parametrize("workers", [0, 1])
def test_values_of_the_book_join_by_id_and_view(workers: int) -> None:
    plain = {**SPLIT.tensors, "id": torch.arange(40)}
    split = Viewed(TensorSplit(plain), BookSpec(views=3), shelf)
    for epoch in (1, 3):
        for batch in train_loader(split, data(batch_size=10, workers=workers), seed=0, epoch=epoch):
            assert torch.equal(batch["value"], batch["id"] * 10.0 + epoch % 3)


def shelf(ids: Tensor, view: int) -> dict[str, Tensor]:
    return {"value": ids * 10.0 + view}


def test_mixing_mixes_values_alike() -> None:
    read = data(transforms=[{"use": "mixup", "alpha": 1, "per": "sample"}], batch_size=10)
    split = Viewed(TensorSplit(dict(SPLIT.tensors)), BookSpec(linear_mix=True), shelf)
    plain = TensorSplit({**SPLIT.tensors, "value": torch.arange(40) * 10.0})
    mixed = next(iter(train_loader(split, read, seed=0)))
    own = next(iter(train_loader(plain, read, seed=0)))
    assert torch.equal(mixed["image"], own["image"])
    assert torch.equal(mixed["label_b"], own["label_b"])
    a, share = own["value"], mixed["mix"]
    other = (mixed["value"] - share * a) / (1 - share)  # the values of the second rows
    assert sorted(other.round().tolist()) == sorted(a.tolist())


SPEC: dict[str, Any] = {
    "kdgraph": 1, "name": "refused",
    "batch": {
        "image": {"shape": ["B", 1, 8, 8]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 10},
    },
    "models": {
        "teacher": {"source": "cifar/resnet8", "args": {"in_channels": 1},
                    "taps": {"logits": "output"}},
        "student": {"source": "cifar/resnet8", "args": {"in_channels": 1},
                    "taps": {"logits": "output"}},
    },
    "losses": {
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"}
    },
    "train": {"epochs": 1, "optimizer": {"use": "SGD", "lr": 0.1}},
}  # fmt: skip
MIXED = {"label_b": {"shape": ["B"], "dtype": "int64"}, "mix": {"shape": ["B"]}}


def refusal(read: dict[str, Any], book: dict[str, Any] | None = None, **batch: Any) -> str:
    text = {**SPEC, "batch": {**SPEC["batch"], **batch}, "data": {"use": "digits", **read}}
    spec = kdgraph.load_spec(text if book is None else {**text, "book": book})
    found, _ = open_data(spec)
    with pytest.raises(BookError) as refused:
        views_of(spec, found)
    (one,) = refused.value.diagnostics
    assert one.code == "KD760"
    return f"{one.message}; {one.help}"


def test_views_must_be_counted_where_something_is_random() -> None:
    said = refusal({"augment": {"shift": 1}})
    assert "`augment`" in said
    assert "book: {views: 4}" in said
    assert "rotate" in refusal({"transforms": [{"use": "rotate"}]}, {})
    spec = kdgraph.load_spec({**SPEC, "data": {"use": "digits"}})
    assert views_of(spec, open_data(spec)[0]).views == 1


def test_mixing_is_refused_with_the_reason() -> None:
    mixup = {"use": "mixup"}
    said = refusal({"transforms": [mixup]}, {"views": 1}, **MIXED)
    assert "mixup mixes rows" in said
    assert "linear_mix: true" in said
    mixed = {"views": 1, "linear_mix": True}
    later = {"transforms": [mixup, {"use": "rotate"}]}
    assert "put rotate before mixup" in refusal(later, mixed, **MIXED)
    sparse = {**mixed, "store": {"teacher.logits": {"top_k": 3}}}
    assert "`top_k`" in refusal({"transforms": [mixup]}, sparse, **MIXED)
    spec = kdgraph.load_spec({
        **SPEC, "batch": {**SPEC["batch"], **MIXED}, "book": mixed,
        "data": {"use": "digits", "transforms": [{"use": "rotate"}, mixup]},
    })  # fmt: skip
    assert views_of(spec, open_data(spec)[0]).views == 1


def test_a_transform_that_says_nothing_is_refused() -> None:
    spec = kdgraph.load_spec({**SPEC, "data": {"use": "digits"}})
    read, _ = open_data(spec)
    silent = read.model_copy(update={"transforms": (Silent(use="silent"),)})
    with pytest.raises(BookError, match="silent does not say"):
        views_of(spec, silent)


class Silent(Transform):
    """A transform from before books."""
