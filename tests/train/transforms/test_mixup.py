"""MixUp blends two images and says which labels and how much of each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml

import kdgraph
from kdgraph.errors import DataError
from kdgraph.train.data._open import open_data
from kdgraph.train.data._split import seeded
from kdgraph.train.data.transforms.mixup import MixUp


def batch() -> dict[str, torch.Tensor]:
    return {"image": torch.rand(6, 1, 2, 2, dtype=torch.float64), "label": torch.arange(6)}


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_image_and_labels_tell_of_the_same_pairs(per: str) -> None:
    before = batch()
    after = MixUp(alpha=1.0, per=per).apply(before, seeded("mixup"))  # type: ignore[arg-type]
    assert set(after) == {"image", "label", "label_b", "mix"}
    share = after["mix"].view(6, 1, 1, 1)
    a, b = (before["image"][after[name]] for name in ("label", "label_b"))
    torch.testing.assert_close(after["image"], share * a + (1 - share) * b)
    assert len(after["mix"].unique()) == (1 if per == "batch" else 6)
    assert sorted(after["label_b"].tolist()) == list(range(6))
    assert after["mix"].is_contiguous()


def test_the_share_is_drawn_from_a_beta_distribution() -> None:
    draw = MixUp(alpha=0.5, per="sample")
    many = {"image": torch.zeros(4000, 1), "label": torch.zeros(4000, dtype=torch.int64)}
    share = draw.apply(many, seeded("beta"))["mix"]
    # Beta(a, a) has mean 1 / 2 and variance 1 / (4 (2 a + 1))
    assert float(share.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(share.var()) == pytest.approx(0.125, abs=0.005)


def test_names_are_those_asked_for() -> None:
    mixup = MixUp(entry="x", label="y", label_b="z", mix="m")
    assert (mixup.reads(), mixup.adds()) == (("x", "y"), ("z", "m"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_shares_are_float32_whatever_is_mixed(dtype: torch.dtype) -> None:
    before = {"image": torch.rand(4, 3).to(dtype), "label": torch.arange(4)}
    after = MixUp().apply(before, seeded("mixup"))
    assert (after["image"].dtype, after["mix"].dtype) == (dtype, torch.float32)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_cannot_be_blended(dtype: torch.dtype) -> None:
    before = {"image": torch.ones(4, 3, 3).to(dtype), "label": torch.arange(4)}
    with pytest.raises(DataError, match=r"KD711\]: mixup cannot blend 'image'.*whole numbers"):
        MixUp().apply(before, seeded("mixup"))


def test_it_is_said_where_whole_numbers_would_be_blended(make_spec: Any) -> None:
    text = make_spec(data={"transforms": [{"use": "class_weights"}, {"use": "mixup"}]})
    text["batch"] |= {
        "label_b": {"shape": ["B"], "dtype": "int64"},
        "mix": {"shape": ["B"]}, "class_weights": {"shape": [10]},
    }  # fmt: skip
    open_data(kdgraph.load_spec(text))  # bytes of images are not: they are scaled before
    text["data"]["transforms"][1]["entry"] = "label"
    spec = kdgraph.load_spec(yaml.safe_dump(text, sort_keys=False))
    with pytest.raises(DataError, match=r"KD711\]: mixup cannot blend 'label'") as error:
        open_data(spec)
    assert error.value.diagnostics[0].span == spec.span("data", "transforms", 1)
