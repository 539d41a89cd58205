"""The data sets: honest splits, exact order, and what is said when something is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import kdgraph
from kdgraph.spec.data import DATA, Augment, Normalise
from kdgraph.train.data._batches import Batches, augmented
from kdgraph.train.data._classes import select_classes
from kdgraph.train.data._load import eval_loader, train_loader
from kdgraph.train.data._open import open_data
from kdgraph.train.data._split import RowSplit, TensorSplit, draw, draw_shots, seeded
from kdgraph.train.data.base import DataSet, Splits
from kdgraph.train.data.digits import _SHEETS
from kdgraph.train.data.fashion_mnist import SYSTEM
from kdgraph.train.data.glyphs import _folders, _is_font
from kdgraph.train.derive import teacher_by_itself


def entry(name: str, **keys: Any) -> DataSet:
    made: DataSet = DATA.get(name)(**keys)
    return made


def rows(split: Any) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.tensors["image"]}


def shares_no_row(splits: Splits) -> bool:
    assert splits.test is not None
    train, val, test = (rows(s) for s in (splits.train, splits.val, splits.test))
    return not (train & val or train & test or val & test)


def test_digits_are_split_by_form() -> None:
    splits = entry("digits").load(Path())
    assert splits.test is not None
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [1029, 258, 510]
    assert shares_no_row(splits)
    label = torch.cat([s.tensors["label"] for s in (splits.train, splits.val, splits.test)])  # type: ignore[attr-defined]
    # where a form begins, the sequence that every form asks for starts over
    begin = list(range(10)) * 3
    exact = [label[at : at + 30].tolist() == begin for at in _SHEETS[:-1]]
    assert sum(exact) == 12  # two forms lack digits near their beginning
    image = splits.train.tensors["image"]  # type: ignore[attr-defined]
    scaling = entry("digits").scaling()
    assert scaling is not None
    assert scaling.mean[0] == pytest.approx(float(image.mean()), abs=1e-4)
    assert scaling.std[0] == pytest.approx(float(image.std()), abs=1e-4)


def test_fashion_mnist(require_system: Any) -> None:
    require_system("dataset-fashion-mnist", SYSTEM.is_dir())
    splits = entry("fashion_mnist").load(Path())
    assert splits.test is not None
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [55000, 5000, 10000]
    labels = splits.val.labels()
    assert labels is not None
    assert labels.bincount().tolist() == [500] * 10
    assert splits.train.rows([0, 1])["image"].shape == (2, 1, 28, 28)


def test_fashion_mnist_from_own_files(tmp_path: Path) -> None:
    for part, count in (("train", 6000), ("t10k", 20)):
        sizes = b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        head = b"\0\0\x08\x03" + sizes
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(head + bytes(count * 784))
        head = b"\0\0\x08\x01" + count.to_bytes(4, "big")
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(
            head + bytes(range(10)) * (count // 10)
        )
    splits = entry("fashion_mnist", path=str(tmp_path)).load(Path())
    assert len(splits.train) == 1000
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"no idx file")
    with pytest.raises(kdgraph.KDGraphError, match="KD710"):
        entry("fashion_mnist", path=str(tmp_path)).load(Path())


def test_glyphs_are_split_by_family(require_system: Any) -> None:
    fonts = [p for folder in _folders() for p in folder.rglob("*") if _is_font(p)]
    require_system("fonts-dejavu", len(fonts) >= 10)
    splits = entry("glyphs").load(Path())
    assert shares_no_row(splits)
    assert len(splits.train) % 62 == 0
    assert "families" in splits.note
    few = entry("glyphs", classes=36).load(Path()).train.labels()
    assert few is not None
    assert few.unique().tolist() == list(range(36))


def test_glyphs_without_fonts(tmp_path: Path) -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"KD710.*3 families"):
        entry("glyphs", path=str(tmp_path)).load(Path())


def test_imagefolder(tmp_path: Path) -> None:
    from PIL import Image

    for part in ("train", "val"):
        for color, name in ((10, "dark"), (200, "light")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            Image.new("RGB", (20, 12), (color,) * 3).save(folder / "a.png")
    splits = entry("imagefolder", path=str(tmp_path), size=8, workers=0).load(Path())
    assert splits.test is None
    batch = splits.train.rows([0, 1])
    assert batch["image"].shape == (2, 3, 8, 8)
    assert batch["image"][:, 0, 0, 0].tolist() == [10, 200]
    assert batch["label"].tolist() == [0, 1]
    (tmp_path / "val" / "odd").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "val" / "odd" / "a.png")
    with pytest.raises(kdgraph.KDGraphError, match=r"KD719.*odd"):
        entry("imagefolder", path=str(tmp_path)).load(Path())


def test_hf_from_local_files(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path = tmp_path_factory.mktemp("rows")  # the library reads parts out of folders' names
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    lines = [json.dumps({"pixels": [[i / 9] * 4] * 4, "digit": i}) for i in range(10)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    columns = {"image": "pixels", "label": "digit"}
    parts = {"train": "train[:8]", "val": "train[8:]", "test": None}
    data = entry("hf", path=str(tmp_path), columns=columns, splits=parts)
    splits = data.load(Path())
    assert (len(splits.train), len(splits.val), splits.test) == (8, 2, None)
    assert splits.val.rows([1, 0])["label"].tolist() == [9, 8]
    assert splits.train.rows([3])["image"].shape == (1, 4, 4)
    wrong = entry("hf", path=str(tmp_path), columns={"image": "pixel"}, splits=parts)
    with pytest.raises(kdgraph.KDGraphError, match=r"KD711.*\n.*'pixels'"):
        wrong.load(Path())


DATASETS = """
import torch
def both(n=6):
    part = {"image": torch.rand(n, 1, 8, 8), "label": torch.arange(n)}
    rows = [{"image": part["image"][i], "label": part["label"][i]} for i in range(n)]
    return {"train": part, "val": rows}
"""


def test_python_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(DATASETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = entry("python", call="own_data:both", args={"n": 4})
    with pytest.raises(kdgraph.KDGraphError, match=r"KD710.*not trusted"):
        data.load(Path())
    splits = data.load(Path(), trust=["own_data"])
    for split in (splits.train, splits.val):
        assert split.columns == ("image", "label")
        assert split.rows([3, 1])["label"].tolist() == [3, 1]
        assert len(split.subset(torch.tensor([2, 0]))) == 2


def numbers(loader: Any) -> list[int]:
    return [int(v) for batch in loader for v in batch["row"]]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    split = TensorSplit({"row": torch.arange(50)})
    data = entry("digits", batch_size=8)
    first = numbers(train_loader(split, data, seed=1, epoch=2))
    assert first == numbers(train_loader(split, data, seed=1, epoch=2))
    assert first != numbers(train_loader(split, data, seed=1, epoch=3))
    assert first != numbers(train_loader(split, data, seed=2, epoch=2))
    assert len(first) == len(set(first)) == 48  # the last 2 rows make no full batch
    assert numbers(train_loader(split, data, seed=1, epoch=2, done=4)) == first[32:]
    assert numbers(eval_loader(split, data)) == list(range(50))
    few = TensorSplit({"row": torch.arange(5)})
    assert sorted(numbers(train_loader(few, data, seed=1))) == list(range(5))


def test_workers_change_nothing() -> None:
    split = entry("digits").load(Path()).val
    batches = []
    for workers in (0, 2):
        data = entry("digits", workers=workers, augment=Augment(shift=1))
        batches.append([batch["image"] for batch in train_loader(split, data, seed=0)])
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_augmentation_moves_and_mirrors() -> None:
    image = torch.zeros(200, 1, 5, 5)
    image[:, 0, 2, 2] = 1
    moved = augmented(image, Augment(shift=2), seeded("t"))
    assert moved.sum() == 200  # a pixel in the centre never leaves
    assert {tuple(p.tolist()) for p in moved.nonzero()[:, 2:]} == {
        (i, j) for i in range(5) for j in range(5)
    }
    image = torch.zeros(200, 1, 1, 2)
    image[..., 0] = 1
    left = augmented(image, Augment(flip=True), seeded("t"))[:, 0, 0, 0].sum()
    assert 60 < left < 140


def test_bytes_are_scaled_then_normalised() -> None:
    split = TensorSplit({"image": torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)})
    batch = Batches(split, Normalise(mean=(0.5,), std=(0.25,)))[0, 0, [0]]
    assert torch.equal(batch["image"], torch.full((1, 1, 2, 2), 2.0))


def test_limit_keeps_classes_even(make_spec: Any) -> None:
    split = TensorSplit({"label": torch.arange(1000) % 10})
    kept, left = draw(split, 50, "seed")
    assert split.tensors["label"][kept].bincount().tolist() == [5] * 10
    assert sorted([*kept.tolist(), *left.tolist()]) == list(range(1000))
    spec = kdgraph.load_spec(make_spec(data={"limit": 100}))
    _, splits = open_data(spec)
    assert len(splits.train) == 100


def test_shots_are_drawn_alike_from_every_class(make_spec: Any) -> None:
    def opened(**keys: int) -> Splits:
        return open_data(kdgraph.load_spec(make_spec(data=keys)))[1]

    whole, few = opened(), opened(shots=3)
    labels = few.train.labels()
    assert labels is not None
    assert labels.bincount().tolist() == [3] * 10
    assert rows(few.train) == rows(opened(shots=3).train)
    assert rows(few.train) != rows(opened(shots=3, split_seed=1).train)
    assert set(rows(few.train)) < set(rows(opened(shots=5).train)) < set(rows(whole.train))
    assert (rows(few.val), rows(few.test)) == (rows(whole.val), rows(whole.test))
    assert few.note.endswith("; 3 training rows of each class")


def test_shots_that_a_class_does_not_have(make_spec: Any) -> None:
    spec = kdgraph.load_spec(make_spec(data={"limit": 50, "shots": 5}))
    assert len(open_data(spec)[1].train) == 50
    for keys in ({"limit": 50, "shots": 6}, {"shots": 200}):
        with pytest.raises(kdgraph.KDGraphError, match=r"KD719.*class \d has \d+ training rows"):
            open_data(kdgraph.load_spec(make_spec(data=keys)))
    labels = torch.tensor([0, 0, 1, 1, -100])
    assert sorted(draw_shots(labels, 2, [0, 1], "seed").tolist()) == [0, 1, 2, 3]


def test_a_teacher_sees_more_than_the_shots(make_spec: Any) -> None:
    text = make_spec(data={"limit": 200, "shots": 2}, train={"teacher": {"epochs": 1}})
    own = teacher_by_itself(kdgraph.load_spec(text), "teacher")
    assert len(open_data(own)[1].train) == 200


def test_shots_need_class_numbers(make_spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorSplit, "labels", lambda self: None)
    with pytest.raises(kdgraph.KDGraphError, match=r"KD719.*column `label`"):
        open_data(kdgraph.load_spec(make_spec(data={"shots": 1})))


def test_columns_must_be_those_of_the_batch(make_spec: Any) -> None:
    text = make_spec()
    text["batch"]["images"] = text["batch"].pop("image")
    with pytest.raises(kdgraph.KDGraphError, match=r"KD711.*'images'.*\n.*'image'"):
        open_data(kdgraph.load_spec(text))
    with pytest.raises(kdgraph.KDGraphError, match=r"KD711.*'picture'"):
        open_data(kdgraph.load_spec(make_spec(data={"augment": {"entry": "picture"}})))


def test_classes_are_renumbered_all_at_once() -> None:
    """One after the other, 7 would become 3, and then 4 with all that was 3 before."""
    chosen = (4, 6, 2, 7, 3)
    whole = entry("digits").load(Path())
    splits = select_classes(whole, chosen)
    for part in ("train", "val", "test"):
        before, after = getattr(whole, part), getattr(splits, part)
        kept = after.rows(range(len(after)))
        old, new = before.tensors["label"], kept["label"]
        assert new.bincount().tolist() == [int((old == c).sum()) for c in chosen]
        assert torch.equal(new, after.labels())
        for at, c in enumerate(chosen):
            assert torch.equal(kept["image"][new == at], before.tensors["image"][old == c])
    assert splits.note.endswith("classes 4, 6, 2, 7, 3 alone, numbered from 0")


def test_unlabelled_rows_are_of_no_class() -> None:
    rows = TensorSplit({"image": torch.arange(6), "label": torch.tensor([-1, 3, -100, 0, 1, 3])})
    splits = select_classes(Splits(rows, rows.subset(torch.tensor([0, 2])), None, ""), [1, 3])
    assert splits.train.rows([0, 1, 2])["image"].tolist() == [1, 4, 5]
    assert splits.train.rows([0, 1, 2])["label"].tolist() == [1, 0, 1]
    assert len(splits.val) == 0


def test_nothing_can_be_selected_from_an_empty_part(
    make_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = TensorSplit({"image": torch.zeros(4, 1, 8, 8), "label": torch.arange(4)})
    empty = rows.subset(torch.arange(0))
    spec = kdgraph.load_spec(make_spec(data={"select_classes": list(range(4))}))
    for splits in (Splits(empty, rows, None, ""), Splits(rows, empty, None, "")):
        monkeypatch.setattr(type(spec.data), "load", lambda *_, found=splits: found)
        with pytest.raises(kdgraph.KDGraphError, match="KD719"):
            open_data(spec)


def test_selected_classes_are_counted(make_spec: Any) -> None:
    text = make_spec(data={"select_classes": [8, 1]})
    spec = kdgraph.load_spec(yaml.safe_dump(text, sort_keys=False))
    with pytest.raises(
        kdgraph.KDGraphError, match=r"KD711.*leaves 2 .*\n.*\n.*\n.*`classes: 2`"
    ) as e:
        open_data(spec)
    assert e.value.diagnostics[0].span == spec.span("batch", "label", "classes")
    text["batch"]["label"]["classes"] = 2
    text["train"]["teacher"] = {"epochs": 1, "classes": 10}
    spec = kdgraph.load_spec(text)
    for one in (spec, teacher_by_itself(spec, "teacher")):  # the teacher learns all classes
        open_data(one)


@pytest.mark.parametrize("classes", [[4, 6, 2, 3, 7], [4, 6, 2, 7, 8]])
def test_a_teacher_is_asked_for_the_selected_classes_in_their_order(
    make_spec: Any, classes: list[int]
) -> None:
    text = _of_five(make_spec, classes)
    text["train"]["teacher"] = {"epochs": 1, "classes": 10}
    spec = kdgraph.load_spec(yaml.safe_dump(text, sort_keys=False, default_flow_style=None))
    with pytest.raises(kdgraph.KDGraphError) as error:
        open_data(spec)
    (found,) = error.value.diagnostics
    there, here = spec.span("data", "select_classes"), spec.span("signals", "chosen", "classes")
    assert there is not None
    assert here is not None
    assert there.line != here.line
    assert (found.code, found.span) == ("KD711", here)
    listed = ", ".join(map(str, classes))
    assert f"'chosen' takes [{listed}] for the classes" in found.message
    assert "`select_classes` makes of [4, 6, 2, 7, 3]" in found.message
    assert found.help == f"write `classes: [4, 6, 2, 7, 3]`, as at {there}"


@pytest.mark.parametrize("classes", [[4, 6, 2, 7, 3], [40, 6, 20, 1, 5], [3, 2]])
def test_a_teacher_may_know_the_classes_by_other_numbers(
    make_spec: Any, classes: list[int]
) -> None:
    text = _of_five(make_spec, classes)
    del text["train"]["teacher"]
    # a choice among the chosen counts anew, and the student has its own numbers
    again = {"use": "select_classes", "of": "chosen", "classes": [3, 7, 2, 6, 4]}
    text["signals"]["again"] = again
    text["signals"]["own"] = {"use": "select_classes", "of": "student.logits", "classes": [1, 0]}
    open_data(kdgraph.load_spec(text))


def _of_five(make_spec: Any, classes: list[int]) -> dict[str, Any]:
    """The teacher behind another signal, which changes nothing about the order."""
    text: dict[str, Any] = make_spec(data={"select_classes": [4, 6, 2, 7, 3]})
    text["batch"]["label"]["classes"] = 5
    text["signals"] = {
        "cooler": {"use": "affine", "of": "teacher.logits", "scale": 0.5},
        "chosen": {"use": "select_classes", "of": "cooler", "classes": classes},
    }
    text["losses"]["soft"]["teacher"] = "chosen"
    return text


def test_classes_that_cannot_be_selected(make_spec: Any) -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"KD115.*class 3 is listed twice"):
        kdgraph.load_spec(make_spec(data={"select_classes": [3, 1, 3]}))
    with pytest.raises(kdgraph.KDGraphError, match=r"KD719.*no row of class 12"):
        open_data(kdgraph.load_spec(make_spec(data={"select_classes": [3, 12]})))
    rows = RowSplit([1, 2], lambda value: {"label": torch.tensor(value)})
    with pytest.raises(kdgraph.KDGraphError, match=r"KD719.*column `label`"):
        select_classes(Splits(rows, rows, None, ""), [1])


def test_a_limit_counts_what_was_selected(make_spec: Any) -> None:
    text = make_spec(data={"select_classes": [8, 1]})
    text["batch"]["label"]["classes"] = 2
    _, splits = open_data(kdgraph.load_spec(text))
    labels = splits.train.labels()
    assert labels is not None
    assert labels.unique().tolist() == [0, 1]
    assert abs(int(labels.sum()) - len(labels) / 2) < 10
