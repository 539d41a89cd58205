"""MixUp blends two images and says which labels and how much of each."""

from __future__ import annotations

import pytest
import torch

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
