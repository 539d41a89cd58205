from __future__ import annotations

import json
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdgraph.book import Book, Writer
from kdgraph.book.header import FOLDER, HEADER, SHARDS, checksum
from kdgraph.errors import BookError
from tests.book.small import COLUMNS, plan, values, write


def expected(view: int, ids: Tensor) -> dict[str, Tensor]:
    found = values(view, ids)
    return {n: x for c in COLUMNS for n, x in c.decode(c.encode(found[c.name])).items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(x, other[n]) for n, x in one.items())


def test_rows_in_any_order(whole: Path) -> None:
    book = Book.open(whole)
    assert (len(book), book.views) == (23, 2)
    assert [c.name for c in book.columns] == ["teacher.logits", "teacher.mid", "top"]
    ids = torch.tensor([22, 0, 7, 7, 12, 5])
    assert same(book.rows(ids, 1), expected(1, ids))
    assert same(book.rows(ids[:0]), expected(0, ids[:0]))
    assert same(book.rows(ids), expected(0, ids))


def test_each_row_in_a_view_of_its_own(whole: Path) -> None:
    ids, view = torch.tensor([3, 3, 22, 9]), torch.tensor([0, 1, 1, 0])
    found = Book.open(whole).rows(ids, view)
    for at in range(4):
        alone = expected(int(view[at]), ids[at : at + 1])
        assert same({n: x[at : at + 1] for n, x in found.items()}, alone)


def test_numbers_of_any_width(whole: Path) -> None:
    ids, views = torch.tensor([3, 22]), torch.tensor([99, 7])
    book = Book(whole, plan(rows=23, views=100), [])
    expected = book._places(ids, views)
    assert expected[0].tolist() == [99 * 4, 7 * 4 + 3]
    for dtype in (torch.uint8, torch.int8, torch.int32):
        found = book._places(ids.to(dtype), views.to(dtype))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("ids", [[1.0, 2.7], [True, False], [[1, 2]]])
def test_numbers_that_are_none(whole: Path, ids: list[Any]) -> None:
    with pytest.raises(BookError, match=r"KD764.*whole ones"):
        Book.open(whole).rows(torch.tensor(ids))


def test_what_is_read_is_the_readers_own(whole: Path) -> None:
    book = Book.open(whole)
    ids = torch.arange(6)
    book.rows(ids)["teacher.mid"].zero_()
    assert same(book.rows(ids), expected(0, ids))


@pytest.mark.parametrize(
    ("ids", "view", "said"),
    [([23], 0, "no sample 23"), ([-1], 0, "no sample -1"), ([0], 2, "no view 2")],
)
def test_rows_that_are_not_there(whole: Path, ids: list[int], view: int, said: str) -> None:
    with pytest.raises(BookError, match=rf"KD764.*{said}"):
        Book.open(whole).rows(torch.tensor(ids), view)


def _sum(book: Book, first: int) -> float:
    torch.set_num_threads(1)
    return book.rows(torch.arange(first, first + 5))["teacher.mid"].sum().item()


def test_several_processes_read_at_once(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # the other process imports `_sum`
    book = Book.open(whole)
    alone = [_sum(book, first) for first in (0, 9, 18)]
    assert same(
        pickle.loads(pickle.dumps(book)).rows(torch.arange(3)), expected(0, torch.arange(3))
    )
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert list(pool.map(_sum, [book] * 3, (0, 9, 18))) == alone


def test_no_book(tmp_path: Path) -> None:
    with pytest.raises(BookError, match=r"KD761.*no book"):
        Book.open(tmp_path / "nowhere")


def test_a_half_built_book_is_refused(tmp_path: Path) -> None:
    with Writer(tmp_path, plan()) as writer:
        assert not writer.finish()
    with pytest.raises(BookError, match=r"KD761.*not finished"):
        Book.open(tmp_path)


@pytest.fixture
def book(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.mark.parametrize("change", ["rows", "fingerprint", "checksum"])
def test_a_changed_header_is_refused(book: Path, change: str) -> None:
    said = json.loads((book / HEADER).read_text())
    said[change] = {"rows": 24, "fingerprint": {"weights": "mine"}, "checksum": "0" * 32}[change]
    (book / HEADER).write_text(json.dumps(said))
    with pytest.raises(BookError, match=r"KD762.*header.*damaged"):
        Book.open(book)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kdgraph_book": 1}', "\0\0"])
def test_a_header_that_is_none_is_refused(book: Path, text: str) -> None:
    (book / HEADER).write_text(text)
    with pytest.raises(BookError, match=r"KD762.*header.*damaged"):
        Book.open(book)


def test_a_later_version_is_refused(book: Path) -> None:
    (book / HEADER).write_text('{"kdgraph_book": 2}')
    with pytest.raises(BookError, match=r"KD762.*version 2"):
        Book.open(book)


def test_a_changed_list_of_shards_is_refused(book: Path) -> None:
    text = (book / SHARDS).read_text()
    (book / SHARDS).write_text(text.replace("00001-", "00000-"))
    with pytest.raises(BookError, match=r"KD761.*list of shards is damaged"):
        Book.open(book)


def test_missing_and_cut_shards_are_named(book: Path) -> None:
    shard = sorted((book / FOLDER).iterdir())[3]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(BookError, match=rf"KD762.*{shard.name}.*bytes, not"):
        Book.open(book)
    shard.unlink()
    with pytest.raises(BookError, match=rf"KD762.*{shard.name}.*is missing"):
        Book.open(book)


def test_a_shard_of_another_book_is_refused(book: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", plan(weights="other")).path
    ours, theirs = (min((p / FOLDER).iterdir()) for p in (book, other))
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(BookError, match=rf"KD762.*{ours.name}.*damaged"):
        Book.open(book).rows(torch.tensor([0]))
    listed = (book / SHARDS).read_text()
    assert ours.name in listed
    ours.rename(ours.with_name(theirs.name))
    said = json.loads(listed.replace(ours.name, theirs.name))  # as if somebody had meant it
    del said["checksum"]
    said["checksum"] = checksum(json.dumps(said).encode())
    (book / SHARDS).write_text(json.dumps(said))
    with pytest.raises(BookError, match=rf"KD762.*{theirs.name}.*of another book"):
        Book.open(book).rows(torch.tensor([0]))


@pytest.mark.parametrize("at", [9, 300, -1])
def test_a_flipped_byte_is_found_before_a_row_is_given(book: Path, at: int) -> None:
    shard = sorted((book / FOLDER).iterdir())[2]
    data = bytearray(shard.read_bytes())
    data[at] ^= 64
    shard.write_bytes(data)
    opened = Book.open(book)
    opened.rows(torch.arange(12))  # of other shards
    with pytest.raises(BookError, match=rf"KD762.*{shard.name}.*not what was written"):
        opened.rows(torch.arange(13))
    with pytest.raises(BookError, match=rf"KD762.*{shard.name}.*not what was written"):
        Book.open(book).check_content()


def test_what_was_compared_is_not_compared_again(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Book.open(whole)
    book.check_content()
    sent = pickle.loads(pickle.dumps(book))
    monkeypatch.setattr("kdgraph.book.store.fault", lambda *_: pytest.fail("compared again"))
    assert same(sent.rows(torch.arange(23), 1), expected(1, torch.arange(23)))


def test_the_field_that_differs_is_named(whole: Path) -> None:
    book = Book.open(whole)
    book.check({"weights": "w"})
    with pytest.raises(BookError) as caught:
        book.check({"weights": "v", "data": "d", "transform.shift": "2"})
    found = caught.value.diagnostics
    assert [d.code for d in found] == ["KD763", "KD763"]
    assert "'weights' is w, not v" in found[0].message
    assert "the weights of the teachers" in str(found[0].help)
    assert "'transform.shift' is missing, not 2" in found[1].message
