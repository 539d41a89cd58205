"""A book in an object store: fsspec's own, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch

from kdgraph.book import Book
from kdgraph.errors import BookError

URL = "memory://bucket/books/kd"


@pytest.fixture
def store(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The store, with a book in it; gives the folder that books are fetched to."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    system = fsspec.filesystem("memory")
    for path in whole.rglob("*"):
        if path.is_file():
            system.pipe_file(f"/bucket/books/kd/{path.relative_to(whole)}", path.read_bytes())
    yield tmp_path / "kdgraph" / "books"
    system.rm("/bucket", recursive=True)


def test_it_is_read_like_any_other(store: Path, whole: Path) -> None:
    ids = torch.tensor([20, 3, 11])
    fetched, here = Book.open(URL).rows(ids, 1), Book.open(whole).rows(ids, 1)
    assert all(torch.equal(fetched[name], here[name]) for name in here)


def test_shards_are_fetched_once(store: Path) -> None:
    path = Book.open(URL).path
    shards = sorted((path / "shards").iterdir())
    shards[2].write_bytes(b"cut")
    shards[5].unlink()
    times = {p: p.stat().st_mtime_ns for p in shards if p not in (shards[2], shards[5])}
    assert len(Book.open(f"{URL}/").rows(torch.arange(23))) == 5
    assert times == {p: p.stat().st_mtime_ns for p in times}


def test_what_is_damaged_there_is_not_kept(store: Path) -> None:
    system = fsspec.filesystem("memory")
    name = system.ls("/bucket/books/kd/shards", detail=False)[0]
    system.pipe_file(name, b"other")
    with pytest.raises(BookError, match=rf"KD762.*{Path(name).name}.*damaged"):
        Book.open(URL)


def test_a_cache_that_cannot_be_made(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.parent.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(store.parent.parent / "file"))
    with pytest.raises(BookError, match=r"KD765.*cannot be written"):
        Book.open(URL)


def test_what_is_not_there(store: Path) -> None:
    with pytest.raises(BookError, match=r"KD761.*no finished book at 'memory://bucket/none'"):
        Book.open("memory://bucket/none")
    with pytest.raises(BookError, match=r"KD761.*cannot be reached"):
        Book.open("nosuch://bucket")
