"""Label maps: how they come, how they move with their images, how they are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import kdgraph
from kdgraph.errors import DataError
from kdgraph.spec.data import DATA, Augment
from kdgraph.train.data._batches import Batches
from kdgraph.train.data._open import open_data
from kdgraph.train.data._paste import pictures
from kdgraph.train.data._split import TensorSplit, seeded
from kdgraph.train.data.fashion_mnist import SYSTEM
from kdgraph.train.score import find_score


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


@pytest.mark.parametrize(
    ("step", "moves"),
    [
        ({"use": "rotate"}, True),
        ({"use": "jda"}, True),
        ({"use": "jda", "policy": [{"invert": 4}, {"shear_x": 0}]}, False),
        ({"use": "color_jitter"}, False),
    ],
)
@pytest.mark.parametrize("viewed", [False, True])
def test_transforms_do_not_leave_label_maps_behind(
    step: dict[str, Any], moves: bool, viewed: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if step["use"] == "jda" and not moves:
        pytest.importorskip("torchvision")
    (tmp_path / "maps.py").write_text(MAPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    steps: list[Any] = [step]
    batch: Any = dict(SPEC["batch"])
    if viewed:  # nor by way of a view, or a view of that
        steps = [
            {"use": "view", "name": "first", "transforms": steps},
            {"use": "view", "of": "first"},
        ]
        batch |= {"first": batch["image"], "view": batch["image"]}
    text = {**SPEC, "batch": batch, "data": {**SPEC["data"], "transforms": steps}}
    spec = kdgraph.load_spec(yaml.safe_dump(text, sort_keys=False))
    if not moves:
        open_data(spec, trust=["maps"])
        return
    with pytest.raises(kdgraph.KDGraphError, match=r"KD711.*moves.*label maps 'label'") as error:
        open_data(spec, trust=["maps"])
    assert len(error.value.diagnostics) == (2 if viewed else 1)
    assert {d.span for d in error.value.diagnostics} == {spec.span("data", "transforms", 0)}


def laid(seed: int, things: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and label maps of white squares of class 4 on green."""
    white = torch.zeros(50, things, 28, 28, dtype=torch.uint8)
    white[:, :, 4:24, 4:24] = 255
    green = torch.zeros(1, 3, 80, 70)
    green[:, 1] = 200
    classes = torch.full((50, things), 4)
    made = pictures(white, classes, green, seeded("laid", seed)).tensors
    return made["image"], made["label"]


def test_label_maps_say_where_things_lie() -> None:
    image, label = laid(0, 1)
    assert image.dtype == torch.uint8
    assert label.dtype == torch.int64
    assert sorted(set(label.flatten().tolist())) == [0, 5, 255]  # from 1, the background is 0
    red = image[:, 0]  # none on the background; on a thing its colour, which is never dark
    assert (red[label == 5] > 0.5 * 0.35 * 255).all()
    assert (red[label == 0] < 0.15 * 255).all()  # the soft edges are in the border, nearly all
    areas = (label == 5).flatten(1).sum(1).sqrt()
    assert 24 < areas.min() < areas.max() < 42  # 20 of 28 pixels, as wide as 36 to 56
    # the border is one pixel wide, and closed; a corner may be too thinly covered to count
    for thing, ring in zip(label == 5, label == 255, strict=True):
        rows, columns = thing.any(1).sum(), thing.any(0).sum()
        assert rows * columns - 4 <= thing.sum() <= rows * columns
        outer = (rows + 2) * (columns + 2)
        assert outer - 4 <= thing.sum() + ring.sum() <= outer


def test_the_same_seed_lays_the_same() -> None:
    for a, b in zip(laid(1, 3), laid(1, 3), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(laid(1, 3)[1], laid(2, 3)[1])
    numbers = (laid(1, 3)[1] == 5).flatten(1).sum(1)
    assert numbers.max() > 1.5 * numbers.min()  # from one to three of them


def test_garments(require_system: Any) -> None:
    require_system("dataset-fashion-mnist", SYSTEM.is_dir())
    data = DATA.get("garments")()
    splits = data.load(Path())
    parts = (splits.train, splits.val, splits.test)
    assert [len(p) for p in parts] == [2000, 300, 500]
    for part in parts:
        share = part.tensors["label"].flatten().bincount() / part.tensors["label"].numel()
        assert 0.5 < share[0] < 0.6
        assert (share[1:11] > 0.005).all()
        assert share[11:].nonzero().tolist() == [[244]]  # 255
        assert share[255] < 0.1
    batch = splits.train.rows([3, 1])
    assert batch["image"].shape == (2, 3, 64, 64)
    assert batch["label"].shape == (2, 64, 64)
    image = splits.train.tensors["image"].float() / 255
    scaling = data.scaling()
    assert scaling.mean == pytest.approx(image.mean((0, 2, 3)).tolist(), abs=1e-3)
    assert scaling.std == pytest.approx(image.std((0, 2, 3)).tolist(), abs=1e-3)


def drawn(place: Path, label: list[list[int]], mode: str = "L") -> None:
    """An image whose red is ten times the class, or such a label map itself."""
    from PIL import Image

    place.parent.mkdir(parents=True, exist_ok=True)
    height, width = len(label), len(label[0])
    picture = Image.new(mode, (width, height))
    if mode == "P":
        picture.putpalette([7, 8, 9] * 256)
    values = [v for row in label for v in row]
    picture.putdata([(10 * v % 256, 0, 0) for v in values] if mode == "RGB" else values)
    picture.save(place)


LAYOUTS: dict[str, dict[str, Any]] = {
    "cityscapes": {
        "image": "leftImg8bit/{part}/{name}_leftImg8bit.png",
        "label": "gtFine/{part}/{name}_gtFine_labelTrainIds.png",
    },
    "camvid": {
        "image": "{part}/{name}.png", "label": "{part}annot/{name}.png",
        "splits": {"test": "test"},
    },
    "voc": {
        "image": "JPEGImages/{name}.png", "label": "SegmentationClass/{name}.png",
        "names": "ImageSets/Segmentation/{part}.txt",
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_segmentation_folder(layout: str, tmp_path: Path) -> None:
    keys = LAYOUTS[layout]
    label = [[0, 1, 2, 255], [3, 1, 2, 4], [3, 0, 0, 4]]
    parts = {"train": ["ulm/b", "aachen/a"], "val": ["c"], "test": ["d"]}
    for part, names in parts.items():
        for name in names:
            for kind, mode in (("image", "RGB"), ("label", "P" if layout == "voc" else "L")):
                path = keys[kind].replace("{part}", part).replace("{name}", name)
                drawn(tmp_path / path, label, mode)
        if "names" in keys:
            listing = tmp_path / keys["names"].replace("{part}", part)
            listing.parent.mkdir(parents=True, exist_ok=True)
            listing.write_text("\n".join(names) + "\n")
    data = DATA.get("segmentation_folder")(path=str(tmp_path), size=(3, 4), **keys)
    splits = data.load(Path())
    assert (len(splits.train), len(splits.val)) == (2, 1)
    assert (splits.test is not None) == (layout == "camvid")
    batch = splits.train.rows([1, 0])
    assert batch["image"].shape == (2, 3, 3, 4)
    assert batch["label"].tolist() == [label, label]
    assert torch.equal(batch["image"][:, 0], (10 * batch["label"] % 256).byte())


def test_labels_are_scaled_without_mixing(tmp_path: Path) -> None:
    for part in ("train", "val"):
        wide = [[1] * 4 + [9] * 8 + [5] * 4] * 4
        drawn(tmp_path / "images" / part / "a.jpg", wide, "RGB")
        drawn(tmp_path / "labels" / part / "a.png", wide)
    data = DATA.get("segmentation_folder")(path=str(tmp_path), size=(8, 20))
    batch = data.load(Path()).train.rows([0])
    # doubled to 8 x 32, cut to the middle 20
    assert batch["label"][0].tolist() == [[1] * 2 + [9] * 16 + [5] * 2] * 8
    assert batch["image"].shape == (1, 3, 8, 20)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    def said(**keys: Any) -> str:
        data = DATA.get("segmentation_folder")(path=str(tmp_path), size=(2, 2), **keys)
        with pytest.raises(kdgraph.KDGraphError) as error:
            data.load(Path()).train.rows([0])
        return str(error.value)

    assert "nothing fits" in said()
    for part in ("train", "val"):
        for name in ("a", "b"):
            drawn(tmp_path / "images" / part / f"{name}.jpg", [[1, 1], [1, 1]], "RGB")
    text = said()
    assert "labels/train/a.png" in text
    assert "1 more" in text
    for part in ("train", "val"):
        drawn(tmp_path / "labels" / part / "a.png", [[1, 1]])
        drawn(tmp_path / "labels" / part / "b.png", [[1, 1], [1, 1]])
    assert "differ in size: 2 x 2 and 2 x 1" in said()
    drawn(tmp_path / "labels" / "train" / "a.png", [[1, 1], [1, 1]], "RGB")
    assert "colours (RGB)" in said()
    (tmp_path / "all.txt").write_text("train/a\n")
    text = said(names="all.txt", image="images/{name}.jpg", label="labels/{name}.png")
    assert "the train and the val part" in text


def test_readers_that_ignore_different_labels() -> None:
    """Which of them are not scored cannot be told then."""
    spec: dict[str, Any] = {**SPEC, "signals": {"known": {"use": "labelled", "of": "label"}}}
    with pytest.raises(DataError, match=r"KD714.*'label' ignores 255, 'known' ignores -100"):
        find_score(kdgraph.load_spec(spec))
    spec["signals"]["known"]["ignore_index"] = 255
    assert find_score(kdgraph.load_spec(spec)).ignore_index == 255
