"""Label maps: how they come, how they move with their images, how they are scored."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kdgraph
from kdgraph.spec.training import Augment
from kdgraph.train.data._load import Batches
from kdgraph.train.data._open import open_data
from kdgraph.train.data._split import TensorSplit


def test_label_maps_move_with_their_images() -> None:
    label = torch.randint(1, 200, (40, 6, 5))
    split = TensorSplit({"image": label.unsqueeze(1).byte(), "label": label})
    augment = Augment(shift=2, flip=True, labels="label", ignore_index=255)
    batch = Batches(split, None, augment, seed=3)[0, 0, list(range(40))]
    seen, marked = (batch["image"] * 255).round().squeeze(1).long(), batch["label"]
    assert marked.dtype == torch.int64
    assert torch.equal(seen.where(seen > 0, 255), marked)
    assert 0 < (marked == 255).sum() < marked.numel() / 2
    assert not torch.equal(marked, label)


SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "maps",
    "batch": {
        "image": {"shape": ["B", 3, 8, 8]},
        "label": {"shape": ["B", 8, 8], "dtype": "int64", "classes": 3},
    },
    "models": {
        "student": {"source": "segment/fcn", "args": {"width": 0.1}, "taps": {"logits": "output"}}
    },
    "losses": {
        "label": {
            "use": "cross_entropy", "student": "student.logits", "target": "label",
            "ignore_index": 255,
        }
    },
    "data": {"use": "python", "call": "maps:parts", "batch_size": 4},
    "train": {"epochs": 1, "optimizer": {"use": "SGD", "lr": 0.1}},
}  # fmt: skip
MAPS = """
import torch
def parts():
    part = {"image": torch.rand(8, 3, 8, 8), "label": torch.randint(0, 3, (8, 8, 8))}
    return {"train": part, "val": part}
"""


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ({"shift": 1}, r"not its label maps 'label'.*\n.*`labels: label`"),
        ({"flip": True, "labels": "labels"}, r"speaks of 'labels'.*\n.*'label'"),
    ],
)
def test_label_maps_are_not_left_behind(
    augment: dict[str, Any], said: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "maps.py").write_text(MAPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = {**SPEC, "data": {**SPEC["data"], "augment": augment}}
    with pytest.raises(kdgraph.KDGraphError, match=f"KD711.*{said}"):
        open_data(kdgraph.load_spec(spec), trust=["maps"])
    spec["data"]["augment"] = {**augment, "labels": "label", "ignore_index": 255}
    open_data(kdgraph.load_spec(spec), trust=["maps"])
