"""``book info`` and ``book verify`` on a book of known values; ``book build`` as users meet it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from kdgraph.book import Writer
from tests.book.small import parts, plan, write
from tests.book.teachers import spec_in

Run = Callable[..., Result]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return write(tmp_path / "book").path


def test_info(run: Run, book: Path) -> None:
    found = json.loads(run("book", "info", book, "--format", "json").stdout)
    assert found["finished"] is True
    assert (found["rows"], found["views"], found["shards"], found["shards_present"]) == (
        23,
        2,
        8,
        8,
    )
    assert found["columns"][2] == {
        "name": "top", "shape": [5], "dtype": "float32", "form": "top_k", "k": 2, "bytes": 16,
    }  # fmt: skip
    assert found["fingerprint"] == {"data": "d", "weights": "w"}
    text = " ".join(run("book", "info", book).stdout.split())
    assert "23 samples in 2 views" in text
    assert "teacher.logits [5] float16 10" in text
    assert "top [5] top 2, float32 16" in text


def test_info_of_what_is_not_finished(run: Run, tmp_path: Path) -> None:
    with Writer(tmp_path, plan()) as writer:
        first = writer.missing()[0]
        writer.write(first, parts(first))
    assert "NOT FINISHED: 1 of 8 shards" in run("book", "info", tmp_path).stdout
    result = run("book", "verify", tmp_path)
    assert result.exit_code == 1
    assert "7 of 8 shards missing: 1, 2, 3, 4, 5, 6, 7" in result.stdout


def test_verify(run: Run, book: Path) -> None:
    result = run("book", "verify", book)
    assert result.exit_code == 0
    assert "all 8 shards are sound" in result.stdout
    shard = sorted((book / "shards").iterdir())[4]
    shard.write_bytes(shard.read_bytes()[:-1])
    result = run("book", "verify", book)
    assert result.exit_code == 1
    assert f"damaged shard {shard.name}" in result.stdout
    found = json.loads(run("book", "verify", book, "--format", "json").stdout)
    assert found["sound"] is False
    assert list(found["damaged"]) == [shard.name]


@pytest.mark.parametrize("what", ["info", "verify"])
def test_no_book(run: Run, tmp_path: Path, what: str) -> None:
    result = run("book", what, tmp_path)
    assert result.exit_code == 1
    assert "error[KD761]: there is no book" in result.stderr
    assert "book build" in result.stderr


def test_the_folder_may_be_moved(run: Run, book: Path, tmp_path: Path) -> None:
    shutil.move(book, tmp_path / "elsewhere")
    assert run("book", "verify", tmp_path / "elsewhere").exit_code == 0


def test_build(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("sklearn")
    spec, folder = spec_in(tmp_path), tmp_path / "built"
    result = run("book", "build", spec, "-o", folder, "--set", "book.views=1")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "book of 50 samples: 27.6 kB, 552 bytes a sample: target [10] float32" in said
    assert "built: 27.6 kB; 50 samples in" in result.stdout
    again = run("book", "build", spec, "-o", folder, "--set", "book.views=1", "--format", "json")
    found = json.loads(again.stdout)
    assert (found["computed"], found["finished"], found["bytes"]) == (0, True, 27600)
    other = run("book", "build", spec, "-o", folder)
    assert other.exit_code == 1
    assert "error[KD763]" in other.stderr
    assert "'transform.views' is 1, not 2" in " ".join(other.stderr.split())
