"""Text as data: windows that never leave a document, documents on one side only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kdgraph
from kdgraph.train.data._load import train_loader
from kdgraph.train.data._text import Windows
from kdgraph.train.data.base import Splits
from kdgraph.train.data.text import Text

IGNORED = -100


def test_windows_cover_each_document_and_no_more() -> None:
    split = Windows.of([b"abcdefgh", b"x", b"", b"ijkl", b"mn"], 3)
    batch = split.rows(range(len(split)))
    tokens = ["".join(map(chr, row)) for row in batch["tokens"].tolist()]
    assert tokens == ["abc", "def", "gh\0", "ijk", "mn\0"]
    assert batch["label"].tolist() == [
        [*b"bcd"], [*b"efg"], [*b"h", IGNORED, IGNORED], [*b"jkl"], [*b"n", IGNORED, IGNORED],
    ]  # fmt: skip
    assert {v.dtype for v in batch.values()} == {torch.int64}
    assert split.rows([4, 0])["tokens"][1].tolist() == [*b"abc"]
    assert split.subset(torch.tensor([3, 2])).rows([0])["tokens"].tolist() == [[*b"ijk"]]


def test_no_documents_are_no_windows() -> None:
    assert len(Windows.of([b"", b"a"], 4)) == 0


def texts(splits: Splits) -> list[bytes]:
    assert splits.test is not None
    parts = (splits.train, splits.val, splits.test)
    return [bytes(part.text.tolist()) for part in parts]  # type: ignore[attr-defined]


def documents(folder: Path, number: int) -> Path:
    folder.mkdir()
    for i in range(number):
        (folder / f"{i:02}.txt").write_text(f"<{i:02}> " * 40)
    return folder


def test_files_are_split_whole(tmp_path: Path) -> None:
    documents(tmp_path / "all", 20)
    (tmp_path / "all" / "not_text.bin").write_bytes(b"\xff\xfe")
    splits = Text(path="all", length=16).load(tmp_path)
    found = [{text[i : i + 4] for i in range(0, len(text), 5)} for text in texts(splits)]
    assert [len(names) for names in found] == [16, 2, 2]
    assert len(set.union(*found)) == 20
    assert splits.note == "split by document, 16 / 2 / 2 for training / validation / test"
    again = Text(path="all", length=16).load(tmp_path)
    assert texts(splits) == texts(again)
    other = Text(path="all", length=16, split_seed=1).load(tmp_path)
    assert texts(splits)[1] != texts(other)[1]


def test_a_single_file_is_cut_at_a_separator(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n\n".join(f"Chapter {i}: hé" for i in range(5)))
    with pytest.raises(kdgraph.KDGraphError, match=r"KD710.*found 1\n.*`separator`"):
        Text(path="book.txt").load(tmp_path)
    splits = Text(path="book.txt", separator="\n\n", length=8).load(tmp_path)
    assert sorted(b"".join(texts(splits)).decode().split("Chapter ")[1:]) == [
        f"{i}: hé" for i in range(5)
    ]
    # 15 bytes, of which 14 are predicted
    assert [len(s) for s in (splits.train, splits.val, splits.test or ())] == [6, 2, 2]


def test_equal_texts_are_one(tmp_path: Path) -> None:
    folder = documents(tmp_path / "all", 10)
    for i in range(10):
        (folder / f"copy{i}.txt").write_bytes((folder / f"{i:02}.txt").read_bytes())
    splits = Text(path="all", length=16).load(tmp_path)
    assert "8 / 1 / 1" in splits.note


def test_what_is_held_out_is_limited(tmp_path: Path) -> None:
    documents(tmp_path / "all", 10)
    splits = Text(path="all", length=8, held_out=3).load(tmp_path)
    assert [len(s) for s in (splits.train, splits.val, splits.test or ())] == [200, 3, 3]
    assert len(Text(path="all", length=8, held_out=99).load(tmp_path).val) == 25


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"KD710.*there is no file"):
        Text(path="nowhere").load(tmp_path)
    with pytest.raises(kdgraph.KDGraphError, match=r"KD710.*`glob`"):
        Text(path=".", glob="/etc/*").load(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff\xff")
    with pytest.raises(kdgraph.KDGraphError, match=r"KD710.*a\.txt.*UTF-8"):
        Text(path=".").load(tmp_path)


@pytest.fixture(scope="module")
def library() -> Splits:
    return Text().load(Path())


def test_the_standard_library_is_always_at_hand(library: Splits) -> None:
    train, val, test = texts(library)
    assert len(train) > 2e6
    assert len(library.val) == 512
    assert b"def " in val
    assert b"import " in test
    for name in (b"class JSONDecoder", b"class OrderedDict", b"class ThreadPoolExecutor"):
        assert sum(name in part for part in (train, val, test)) == 1
    assert "module" in library.note
    batch = library.train.rows([0, 5, 100])
    assert batch["tokens"].shape == batch["label"].shape == (3, 128)
    known = batch["label"] != IGNORED
    assert torch.equal(batch["tokens"][:, 1:][known[:, :-1]], batch["label"][:, :-1][known[:, :-1]])
    assert ((batch["label"] >= 0) & (batch["label"] < 256) | ~known).all()


def test_limit_and_order(library: Splits) -> None:
    few = library.train.subset(torch.arange(10))
    data = Text(batch_size=4)
    first, second = (
        [b["tokens"] for b in train_loader(few, data, seed=3, epoch=1)] for _ in range(2)
    )
    assert len(first) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
