"""Books made to hurt: whoever writes a book writes its checksums, too."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save

import kdgraph
from kdgraph.book import Book, Writer
from kdgraph.book.header import FOLDER, HEADER, SHARDS, checksum
from kdgraph.book.remote import local
from kdgraph.cli.main import main
from kdgraph.errors import BookError
from tests.book.small import plan, write
from tests.hostile.press import FINE, Outcome, press

Change = Callable[[Path], Any]


def forged(book: Path, header: dict[str, Any] | None = None, **listed: Any) -> None:
    """Changes the header or the list of a book, and mends the checksums."""
    said = json.loads((book / HEADER).read_bytes()) | (header or {})
    said.pop("checksum")
    mark = checksum(json.dumps(said, sort_keys=True).encode())
    (book / HEADER).write_text(json.dumps({**said, "checksum": mark}))
    content = json.loads((book / SHARDS).read_bytes()) | {"book": mark} | listed
    content.pop("checksum")
    content["checksum"] = checksum(json.dumps(content).encode())
    (book / SHARDS).write_text(json.dumps(content))


def column(**changed: Any) -> Change:
    """The first column says something else."""

    def change(book: Path) -> None:
        columns = json.loads((book / HEADER).read_bytes())["columns"]
        forged(book, {"columns": [{**columns[0], **changed}, *columns[1:]]})

    return change


def header(**changed: Any) -> Change:
    return lambda book: forged(book, changed)


def text(name: str, content: bytes) -> Change:
    return lambda book: (book / name).write_bytes(content)


def linked(name: str, target: str) -> Change:
    def change(book: Path) -> None:
        (book / name).unlink()
        (book / name).symlink_to(target)

    return change


def first(book: Path) -> Path:
    return sorted((book / FOLDER).iterdir())[0]


def rewritten(change: Callable[[dict[str, torch.Tensor]], None]) -> Change:
    """The first shard holds something else, under its right name, and is listed so."""

    def run(book: Path) -> None:
        shard = first(book)
        tensors = load_file(shard)
        change(tensors)
        mark = json.loads((book / HEADER).read_bytes())["checksum"]
        data = save(tensors, {"kdgraph": f"{mark} 0"})
        shard.unlink()
        made = book / FOLDER / f"00000-{checksum(data)}.safetensors"
        made.write_bytes(data)
        shards = json.loads((book / SHARDS).read_bytes())["shards"]
        forged(book, shards=[[made.name, len(data)], *shards[1:]])

    return run


def flipped(name: str) -> Change:
    def change(book: Path) -> None:
        path = first(book) if name == FOLDER else book / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)

    return change


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors["teacher.mid"][0, 0, 0] = float("nan")


def strange_classes(tensors: dict[str, torch.Tensor]) -> None:
    tensors["top.ids"][0, 0] = 30_000


def widen(tensors: dict[str, torch.Tensor]) -> None:
    tensors["teacher.mid"] = torch.zeros(6, 2, 4)


DAMAGED, SHARD = "is damaged", "shards missing|damaged shard|not finished"
CASES: dict[str, tuple[Change, str]] = {
    "no header": (lambda book: (book / HEADER).unlink(), "there is no book"),
    "a folder for a header": (
        lambda book: ((book / HEADER).unlink(), (book / HEADER).mkdir()),
        "there is no book",
    ),
    "a header that never ends": (linked(HEADER, "/dev/zero"), "no regular file"),
    "a header that is a pipe": (
        lambda book: ((book / HEADER).unlink(), os.mkfifo(book / HEADER)),
        "no regular file",
    ),
    "a header of 10 MB": (text(HEADER, b"[" + b"1," * 5_000_000 + b"1]"), "more than"),
    "a header of a million brackets": (text(HEADER, b"[" * 10**6), DAMAGED),
    "a header of many digits": (text(HEADER, b'{"kdgraph_book": ' + b"1" * 10**6 + b"}"), DAMAGED),
    "a header of no mapping": (text(HEADER, b"[1]"), DAMAGED),
    "a flipped bit of the header": (flipped(HEADER), DAMAGED),
    "rows without end": (header(rows=10**18), DAMAGED),
    "rows that are a word": (header(rows="many"), DAMAGED),
    "no rows": (header(rows=0), DAMAGED),
    "views without end": (header(views=10**12), DAMAGED),
    "a shard for each of 10**9 rows": (header(rows=10**9, shard_rows=1), DAMAGED),
    "shards of no rows": (header(shard_rows=0), DAMAGED),
    "a sample of terabytes": (column(shape=[10**30]), DAMAGED),
    "a sample of less than nothing": (column(shape=[-5]), DAMAGED),
    "a shape of words": (column(shape=["B"]), DAMAGED),
    "a type that is none": (column(dtype="load"), DAMAGED),
    "a type of torch's own": (column(dtype="__loader__"), DAMAGED),
    "a column that is a path": (column(name="../../x"), DAMAGED),
    "a column that steers the terminal": (column(name="\x1b[31m"), DAMAGED),
    "a column of another form": (column(form="zip"), DAMAGED),
    "more classes than there are": (column(form="top_k", k=10**9, dtype="float32"), DAMAGED),
    "no columns": (header(columns=[]), DAMAGED),
    "a fingerprint of lists": (header(fingerprint={"a": [1]}), DAMAGED),
    "no list": (lambda book: (book / SHARDS).unlink(), SHARD),
    "a list that never ends": (linked(SHARDS, "/dev/zero"), SHARD),
    "a list of a million brackets": (text(SHARDS, b"[" * 10**6), SHARD),
    "a flipped bit of the list": (flipped(SHARDS), SHARD),
    "a list of files elsewhere": (
        lambda book: forged(book, shards=[["../../secret.safetensors", 3]] * 8),
        SHARD,
    ),
    "a list of one shard eight times": (
        lambda book: forged(book, shards=[[first(book).name, first(book).stat().st_size]] * 8),
        SHARD,
    ),
    "a shard is missing": (lambda book: first(book).unlink(), SHARD),
    "a shard is cut": (lambda book: first(book).write_bytes(first(book).read_bytes()[:-9]), SHARD),
    "a flipped bit of a shard": (flipped(FOLDER), SHARD),
    "a shard that never ends": (
        lambda book: linked(f"{FOLDER}/{first(book).name}", "/dev/zero")(book),
        SHARD,
    ),
    "a shard that is a pipe": (
        lambda book: (lambda path: (path.unlink(), os.mkfifo(path)))(first(book)),
        SHARD,
    ),
    "rows of nan": (rewritten(poison), "'teacher.mid' has values that are not finite"),
    "classes that there are not": (rewritten(strange_classes), "'top.ids' has classes"),
    "rows of another shape": (rewritten(widen), r"'teacher.mid' is \[6, 2, 4\]"),
    "a shard without a column": (rewritten(lambda t: t.__delitem__("top.tail")), "no 'top.tail'"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What ``kdgraph book verify`` makes of each."""
    scratch = tmp_path_factory.mktemp("books")
    write(scratch / "fine")
    runs = []
    for number, (change, _) in enumerate(CASES.values()):
        folder = scratch / str(number)
        shutil.copytree(scratch / "fine", folder / "book")
        change(folder / "book")
        runs.append((folder, ["book", "verify", "book"]))
    return dict(zip(CASES, press(scratch, runs, ["book", "verify", "fine"]), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_one_clear_error(name: str, outcomes: dict[str, Outcome]) -> None:
    found = outcomes[name]
    found.assert_bounded()
    assert found.code == 1, found.err
    assert len(found.codes) <= 1
    assert re.search(CASES[name][1], found.err + found.out), found.err + found.out
    assert "Traceback" not in found.err
    assert found.new == ()
    assert (found.out + found.err).replace("\n", "").isprintable()


def test_what_is_fetched_stays_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that Python runs when it starts, say, which a list of shards would put in place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    book = tmp_path / "a" / "b" / "c" / "d" / "e" / "book"
    write(book)
    data = b"import os"
    name = f"../../../../../run-{checksum(data)}.pth"
    forged(book, shards=[[name, len(data)]] * 8)
    source = Path(os.path.normpath(book / FOLDER / name))  # where the store would have it
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(data)
    with suppress(BookError):
        local(f"file://{book}")
    assert list(tmp_path.rglob("*.pth")) == [source]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "book"
    write(path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_no_row_of_it_is_given(name: str, sound: Path, tmp_path: Path) -> None:
    """As training and compiling would read it."""
    book = tmp_path / "book"
    shutil.copytree(sound, book)
    CASES[name][0](book)
    with pytest.raises(BookError, match=r"KD76[12]") as caught:
        Book.open(book).rows(torch.arange(23))
    assert len(caught.value.diagnostics) == 1


def test_a_book_of_another_spec_is_not_compiled_with(sound: Path) -> None:
    with pytest.raises(BookError, match=r"KD763.*stale or of something else"):
        kdgraph.compile(FINE, book=sound)
    other = FINE.replace("{mid: layer2, logits: output}", "{mid: layer2, last: output}")
    other = other.replace(".logits", ".last")
    with pytest.raises(BookError, match=r"KD763.*holds no 'teacher.last'"):
        kdgraph.compile(other, book=sound)


def test_a_book_without_a_header_is_not_compiled_with(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "book")
    text(HEADER, b"[" * 10**6)(tmp_path / "book")
    with pytest.raises(BookError, match="KD762"):
        kdgraph.compile(FINE, book=tmp_path / "book")


def test_what_it_was_made_of_steers_no_terminal(sound: Path, tmp_path: Path) -> None:
    """Markup of rich and escapes of terminals are shown as they are."""
    book = tmp_path / "book"
    shutil.copytree(sound, book)
    header(fingerprint={"data": "[red]x[/]\x1b]0;owned\x07\u202e"})(book)
    done = CliRunner().invoke(main, ["book", "info", str(book)])
    assert done.exit_code == 0
    assert r"[red]x[/]\x1b]0;owned\x07\u202e" in done.output
    assert done.output.replace("\n", "").isprintable()


def test_more_shards_than_are_read_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(BookError, match=r"KD765.*1,000,000 shards"):
        Writer(tmp_path / "book", plan(rows=6_000_000, views=1)).__enter__()
    assert not (tmp_path / "book").exists()
