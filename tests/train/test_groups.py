"""Whole groups go to one part: file stems, the split, the check, and what uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import kdgraph
from kdgraph.errors import DataError
from kdgraph.spec.data import DATA
from kdgraph.train.data._groups import check_disjoint, split_groups
from kdgraph.train.data._split import seeded
from kdgraph.train.data._stems import group_key
from kdgraph.train.data.base import Splits
from kdgraph.train.data.fashion_mnist import FashionMnist
from kdgraph.train.data.near_duplicates import _cases, _names


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("F2/P12_04.jpg", "p12_04"),
        ("P12_04 (1).jpg", "p12_04"),
        ("p12_04 - Copy (2).png", "p12_04"),
        ("P12_04_aug3.png", "p12_04"),
        ("P12_04_aug_12.png", "p12_04"),
        ("P12_04_flip_rot90.jpg", "p12_04"),
        ("P12_04_jpg.rf.0a1b2c3d4e.jpg", "p12_04"),
        ("P12_04.v2.png", "p12_04.v2"),
        ("a12.png", "a12"),  # a bare number tells cases apart
        ("rotor.png", "rotor"),
        ("aug3.png", "aug3"),
        ("(1).png", "(1)"),
    ],
)
def test_normalised_stems(name: str, key: str) -> None:
    assert group_key(name, "stem") == key


def test_groups_by_expression() -> None:
    assert group_key("x/patient07_03.png", r"(patient\d+)_") == "patient07"
    with pytest.raises(DataError, match=r"KD719.*finds nothing in 'case1\.png'"):
        group_key("x/case1.png", r"(patient\d+)_")


def spec_of(make_spec: Any, groups: str) -> dict[str, Any]:
    spec: dict[str, Any] = make_spec()
    return {**spec, "data": {"use": "imagefolder", "path": "x", "groups": groups}}


@pytest.mark.parametrize("groups", ["(", "patient", "(a)(b)"])
def test_rules_that_are_none(make_spec: Any, groups: str) -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"KD115.*data\.groups.*expression"):
        kdgraph.load_spec(spec_of(make_spec, groups))


def many_groups() -> tuple[list[str], torch.Tensor]:
    sizes = torch.randint(1, 9, (300,), generator=seeded("sizes")).tolist()
    groups = [f"g{at}" for at, size in enumerate(sizes) for _ in range(size)]
    labels = torch.tensor([int(g[1:]) % 7 // 2 for g in groups])  # classes of unequal size
    return groups, labels


def test_parts_share_no_group_and_are_stratified() -> None:
    groups, labels = many_groups()
    parts = split_groups(groups, labels, 0)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(groups)))
    names = [{groups[i] for i in part} for part in parts]
    assert sum(map(len, names)) == len(set(groups))
    for part, share in zip(parts, (0.7, 0.15, 0.15), strict=True):
        found = labels[part].bincount() / labels.bincount()
        assert torch.allclose(found, torch.tensor(share), atol=0.04)
    again, other = split_groups(groups, labels, 0), split_groups(groups, labels, 1)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not torch.equal(parts[1], other[1])


def test_every_part_gets_a_group_of_every_class() -> None:
    parts = split_groups(["a", "a", "b", "c", "x", "y", "z"], torch.tensor([0] * 4 + [1] * 3), 0)
    assert all(len(part) >= 2 for part in parts)
    with pytest.raises(DataError, match=r"KD719.*class 1 has 2 groups"):
        split_groups(["a", "b", "c", "y", "y", "z"], torch.tensor([0] * 3 + [1] * 3), 0)


def test_a_group_on_two_sides_is_found() -> None:
    check_disjoint({"train": {"a"}, "val": {"b"}})
    with pytest.raises(DataError, match=r"KD719.*1 groups are in both train and test.*'a'"):
        check_disjoint({"train": {"a", "c"}, "val": {"b"}, "test": {"a"}})


def folder_of(place: Path, names: list[str]) -> None:
    from PIL import Image

    place.mkdir(parents=True)
    for at, name in enumerate(names):
        Image.new("RGB", (8, 8), (at, at, at)).save(place / name)


def grouped(root: Path, groups: str = "stem") -> Splits:
    splits: Splits = DATA.get("imagefolder")(path=str(root), size=8, groups=groups).load(Path())
    return splits


def test_imagefolder_by_groups(tmp_path: Path) -> None:
    for label in "ab":
        names = [f"{label}{case}{end}.png" for case in range(5) for end in ("", "_aug1", " (1)")]
        folder_of(tmp_path / label, names)
    splits = grouped(tmp_path)
    assert splits.test is not None
    parts = [splits.train, splits.val, splits.test]
    assert [len(part) for part in parts] == [18, 6, 6]
    for part in parts:
        labels = part.labels()
        assert labels is not None
        assert torch.equal(labels, part.rows(range(len(part)))["label"])
        assert len(labels.unique()) == 2
    assert splits.note.startswith("split by 10 groups")


def test_imagefolder_with_a_case_on_two_sides(tmp_path: Path) -> None:
    folder_of(tmp_path / "train" / "a", ["case1.png", "case2.png"])
    folder_of(tmp_path / "val" / "a", ["case3.png"])
    assert grouped(tmp_path).note == "split as the folders are; none of 3 groups is on two sides"
    folder_of(tmp_path / "test" / "a", ["case2_flip.png"])
    with pytest.raises(DataError, match=r"KD719.*both train and test.*'case2'"):
        grouped(tmp_path)


def test_pictures_of_a_garment_have_names_of_one_group() -> None:
    cases = _cases(40, seeded("t")).tolist()
    keys = [group_key(name, "stem") for name in _names(2, cases)]
    assert keys == [f"f2_case{case:04d}" for case in cases]
    assert len(set(_names(2, cases))) == 40
    assert max(cases.count(case) for case in cases) <= 8


def test_near_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randint(256, (600, 1, 28, 28), generator=seeded("garments"), dtype=torch.uint8)
    garments = image, torch.arange(600) % 10
    monkeypatch.setattr(FashionMnist, "images", lambda *_: garments)
    data = DATA.get("near_duplicates")(counts=(60, 20, 30))
    splits = data.load(Path())
    parts = [splits.train, splits.val, splits.test]
    assert sum(part.labels().bincount() for part in parts).tolist() == [60, 20, 30]
    batch = splits.train.rows([0, 1])
    assert batch["image"].shape == (2, 3, 32, 32)
    assert batch["image"].dtype == torch.uint8
    small = DATA.get("near_duplicates")(counts=(60, 20, 30), size=16).load(Path())
    assert small.train.rows([0])["image"].shape == (1, 3, 16, 16)
    again = data.load(Path())
    assert torch.equal(splits.val.tensors["image"], again.val.tensors["image"])
    with pytest.raises(DataError, match=r"KD719.*70 pictures are more than 60 garments"):
        DATA.get("near_duplicates")(counts=(70, 1)).load(Path())
