from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from kdgraph.book import Book, Header, Writer, verify
from kdgraph.book.header import FOLDER, HEADER, SHARDS
from kdgraph.errors import BookError
from tests.book.small import COLUMNS, content, parts, plan, write


@pytest.fixture
def book(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def shard(path: Path, number: int) -> Path:
    return sorted((path / FOLDER).iterdir())[number]


def test_a_second_build_writes_nothing(book: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in book.rglob("*")}
    with Writer(book, plan()) as writer:
        assert writer.missing() == []
        assert writer.finish()
    assert before == {p: p.stat().st_mtime_ns for p in book.rglob("*")}


def test_what_was_interrupted_goes_on(whole: Path, tmp_path: Path) -> None:
    with Writer(tmp_path, plan()) as writer:
        for each in writer.missing()[:3]:
            writer.write(each, parts(each))
        assert not writer.finish()
    with Writer(tmp_path, plan()) as writer:
        assert [s.number for s in writer.missing()] == [3, 4, 5, 6, 7]
    write(tmp_path)
    assert content(tmp_path) == content(whole)


def test_each_process_writes_its_part(whole: Path, tmp_path: Path) -> None:
    finished = []
    writers = [Writer(tmp_path, plan(), rank=rank, world=3) for rank in (2, 0, 1)]
    for writer in writers:
        with writer:
            for each in writer.missing():
                writer.write(each, parts(each))
            finished.append(writer.finish())
    assert finished == [False, False, True]
    assert content(tmp_path) == content(whole)


def test_another_number_of_processes_goes_on(whole: Path, tmp_path: Path) -> None:
    with Writer(tmp_path, plan(), rank=1, world=2) as writer:
        for each in writer.missing():
            writer.write(each, parts(each))
    write(tmp_path)
    assert content(tmp_path) == content(whole)


@pytest.mark.parametrize("changed", [{"weights": "v"}, {"rows": 24}, {"views": 1}])
def test_another_book_is_not_written_over(book: Path, changed: dict[str, Any]) -> None:
    before = content(book)
    with pytest.raises(BookError, match=rf"KD763.*{next(iter(changed))}"):
        Writer(book, plan(**changed)).__enter__()
    assert content(book) == before


def test_two_builders_at_once(tmp_path: Path) -> None:
    with Writer(tmp_path, plan()), pytest.raises(BookError, match=r"KD766.*another process"):
        Writer(tmp_path, plan()).__enter__()
    with Writer(tmp_path, plan(), rank=0, world=2), Writer(tmp_path, plan(), rank=1, world=2):
        pass  # which torchrun starts


def test_two_builders_where_nothing_is_locked(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with Writer(tmp_path, plan(), rank=0, world=2) as one, Writer(tmp_path, plan()) as other:
        for each in one.missing():
            one.write(each, parts(each))
            other.write(each, parts(each))
        assert not one.finish()
        for each in other.missing():
            other.write(each, parts(each))
        assert other.finish()
        assert one.finish()
    assert content(tmp_path) == content(whole)


def test_of_two_shards_of_one_number_one_is_listed(tmp_path: Path) -> None:
    """Builders on two kinds of machine differ in last bits; each of their shards is right."""
    with Writer(tmp_path, plan()) as writer:
        for each in writer.missing():
            writer.write(each, parts(each))
        first = plan().shards().__next__()
        other = {n: x.clone() for n, x in parts(first).items()}
        other["teacher.mid"] += 1e-6
        writer.write(first, other)
        assert writer.finish()
        listed = (tmp_path / SHARDS).read_bytes()
        assert writer.finish()
    assert len(list((tmp_path / FOLDER).iterdir())) == 9
    assert (tmp_path / SHARDS).read_bytes() == listed
    assert verify(tmp_path).sound
    Book.open(tmp_path)


def test_builders_of_different_books_at_once(tmp_path: Path) -> None:
    ours, theirs = plan(), plan(weights="v")
    with Writer(tmp_path, ours, rank=0, world=2) as writer:
        (tmp_path / HEADER).write_bytes(theirs.text())  # as if both had found the folder empty
        for each in writer.missing():
            writer.write(each, parts(each))
        with pytest.raises(BookError, match=r"KD763.*another book"):
            writer.finish()
    with Writer(tmp_path, theirs) as writer:
        assert len(writer.removed) == 4
        assert len(writer.missing()) == 8


@pytest.mark.parametrize("number", [0, 7])
@pytest.mark.parametrize("fault", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_shard_is_named_and_written_again(
    whole: Path, book: Path, number: int, fault: str
) -> None:
    path = shard(book, number)
    data = bytearray(path.read_bytes())
    if fault == "gone":
        path.unlink()
    else:
        data[-3] ^= 4
        path.write_bytes({"cut": bytes(data[:-9]), "flipped": data, "empty": b""}[fault])
    found = verify(book)
    assert not found.sound
    assert found.missing == ((number,) if fault == "gone" else ())
    assert list(found.damaged) == ([] if fault == "gone" else [path.name])
    others = {p: p.stat().st_mtime_ns for p in (book / FOLDER).iterdir() if p != path}
    with Writer(book, plan()) as writer:
        assert [s.number for s in writer.missing()] == [number]
        with pytest.raises(BookError, match="KD761"):
            Book.open(book)
    write(book)
    assert others == {p: p.stat().st_mtime_ns for p in others}
    assert content(book) == content(whole)
    assert verify(book).sound


@pytest.mark.parametrize("file", [HEADER, SHARDS])
def test_a_damaged_list_or_header_is_written_again(whole: Path, book: Path, file: str) -> None:
    (book / file).write_text("{")
    shards = {p: p.stat().st_mtime_ns for p in (book / FOLDER).iterdir()}
    write(book)
    assert content(book) == content(whole)
    assert shards == {p: p.stat().st_mtime_ns for p in (book / FOLDER).iterdir()}


@pytest.mark.parametrize(
    "header", ["{", '{"kdgraph_book": 2}', None], ids=["damaged", "later", "missing"]
)
def test_another_book_is_kept_where_its_header_cannot_be_read(
    book: Path, header: str | None
) -> None:
    (book / HEADER).unlink()
    if header is not None:
        (book / HEADER).write_text(header)
    before = content(book)
    with pytest.raises(BookError, match=r"KD763.*is of another book"):
        write(book, plan(weights="others"))
    assert content(book) == before


def test_every_flipped_byte_is_found(book: Path) -> None:
    path = shard(book, 2)
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert path.name in verify(book).damaged
    path.write_bytes(data)
    assert verify(book).sound


@pytest.mark.parametrize("at", range(4))
def test_a_full_disk(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The error says so, nothing half-written counts, and with room again it goes on."""
    left, real = at, os.fsync

    def full(handle: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.ftruncate(handle, 5)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BookError, match=r"(?s)KD765.*No space left.*make room"):
            write(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    if (tmp_path / HEADER).exists():
        assert not verify(tmp_path).damaged
    write(tmp_path)
    assert content(tmp_path) == content(whole)


def test_a_file_that_the_system_cuts_off(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    header = Header.plan(COLUMNS, {"weights": "w"}, 2000, 1, batch=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(BookError, match=r"(?s)KD765.*too large.*make room"):
            write(tmp_path, header)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / FOLDER).iterdir()) == []
    assert len(write(tmp_path, header)) == 2000


def test_too_little_room_is_said_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 0, 100))
    with pytest.raises(BookError, match=r"KD765.*room for 100 bytes, and"):
        Writer(tmp_path, plan()).__enter__()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BookError, match="KD765"):
        Writer(tmp_path / "file" / "book", plan()).__enter__()


def test_what_was_written_aside_is_swept(book: Path, whole: Path) -> None:
    (book / FOLDER / ".0-of-1.abc.tmp").write_bytes(b"half")
    (book / ".1-of-2.abc.tmp").write_bytes(b"half")
    write(book)
    assert content(book) == content(whole)


def test_shards_are_whole_batches() -> None:
    header = plan()
    assert header.shard_rows % header.batch == 0
    assert [(s.view, s.start, s.stop) for s in header.shards()] == [
        (view, start, min(start + 6, 23)) for view in (0, 1) for start in (0, 6, 12, 18)
    ]
    assert header.total_bytes == 46 * (5 * 2 + 6 * 4 + (2 * 4 + 2 * 2 + 4))
