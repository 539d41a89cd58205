"""Building a book with real teachers, small ones."""

from __future__ import annotations

import random
import re
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from time import sleep

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import kdgraph
from kdgraph.book import Book, Column, verify
from kdgraph.book.files import locked
from kdgraph.book.header import FOLDER
from kdgraph.errors import BookError, DataError
from kdgraph.spec.read import load_spec
from kdgraph.teachers import compile_teachers
from kdgraph.train import run
from kdgraph.train.book import TEACHERS, build_book, prepare
from kdgraph.train.counting import counted
from kdgraph.train.data._open import open_data
from kdgraph.train.data._views import view_loader, views_of
from kdgraph.train.ranks import Place
from tests.book.killed import Interrupted, interrupted, traced
from tests.book.small import content
from tests.book.teachers import spec_in


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spec_in(tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="module")
def built(spec: Path) -> Path:
    build_book(spec, out=spec.parent / "book")
    return spec.parent / "book"


def test_rows_are_what_the_teachers_say(spec: Path, built: Path) -> None:
    book = Book.open(built)
    assert [(c.name, c.shape, c.dtype) for c in book.columns] == [
        ("target", (10,), "float32"),
        ("teacher.mid", (8, 4, 4), "float32"),
    ]
    assert (len(book), book.views) == (50, 2)
    checked = load_spec(spec)
    module = compile_teachers(checked, ["target", "teacher.mid"])
    data, splits = open_data(checked)
    for view in (0, 1):
        for ids, batch in view_loader(splits.train, data, views_of(checked, data), view):
            live, kept = module(**batch), book.rows(ids, view)
            assert all(torch.equal(live[name][: len(ids)], kept[name]) for name in live)
    assert not torch.equal(book.rows(torch.arange(50))["target"],
                           book.rows(torch.arange(50), 1)["target"])  # fmt: skip


def test_the_size_is_said_before_and_after(spec: Path, tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    done = build_book(spec, out=tmp_path, console=console)
    said = console.export_text()
    # 10 + 8 x 4 x 4 numbers of 4 bytes
    assert "book of 50 samples in 2 views: 55.2 kB, 552 bytes a sample: target [10] float32" in said
    assert done.bytes == 50 * 2 * 552
    assert (done.computed, done.finished, done.removed) == (100, True, ())
    files = sum(p.stat().st_size for p in (tmp_path / FOLDER).iterdir())
    assert done.bytes < files < done.bytes + 1000


def test_a_second_build_computes_nothing(spec: Path, built: Path) -> None:
    before = content(built)
    assert build_book(spec, out=built).computed == 0
    assert content(built) == before


def test_a_damaged_shard_alone_is_computed_again(spec: Path, built: Path) -> None:
    before = content(built)
    shard = sorted((built / FOLDER).iterdir())[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert list(verify(built).damaged) == [shard.name]
    done = build_book(spec, out=built)
    assert (done.computed, done.removed) == (50, (shard.name,))
    assert content(built) == before


def test_nothing_is_trained_on_a_damaged_book(spec: Path, built: Path, tmp_path: Path) -> None:
    book = Path(shutil.copytree(built, tmp_path / "book"))
    shard = max((book / FOLDER).iterdir())
    data = bytearray(shard.read_bytes())
    data[-7] ^= 1
    shard.write_bytes(data)
    with pytest.raises(BookError, match=rf"KD762.*{shard.name}.*not what was written"):
        run(spec, out=tmp_path / "run", book=book)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_ranks_of_torchrun(
    spec: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = []
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        done.append(build_book(spec, out=tmp_path))
    assert [(d.computed, d.finished) for d in done] == [(50, False), (50, True)]
    assert content(tmp_path) == content(built)


def test_it_is_kept_as_the_spec_says(spec: Path, built: Path, tmp_path: Path) -> None:
    kept = "{target: {dtype: float16}, teacher.logits: {top_k: 3}, teacher.mid: {dtype: int8}}"
    build_book(spec, out=tmp_path, set=[f"book.store={kept}"], batch_size=7, workers=1)
    book = Book.open(tmp_path)
    assert book.columns == (
        Column("target", (10,), "float16"),
        Column("teacher.logits", (10,), "float32", "top_k", 3),
        Column("teacher.mid", (8, 4, 4), "int8"),
    )
    ids = torch.tensor([49, 3])
    small, exact = book.rows(ids, 1), Book.open(built).rows(ids, 1)
    torch.testing.assert_close(small["target"], exact["target"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(small["teacher.mid"], exact["teacher.mid"], rtol=0, atol=0.02)
    mass = small["teacher.logits.values"].exp().sum(1) + small["teacher.logits.tail"]
    torch.testing.assert_close(mass, torch.ones(2))


def test_teachers_that_changed_are_another_book(spec: Path, built: Path, tmp_path: Path) -> None:
    before = content(built)
    other = spec_in(tmp_path)
    net = (tmp_path / "teacher.safetensors").read_bytes()
    (tmp_path / "teacher.safetensors").write_bytes(net[:-1] + bytes([net[-1] ^ 1]))
    with pytest.raises(BookError, match=r"KD763.*'weights\.teacher"):
        build_book(other, out=built)
    with pytest.raises(BookError, match=r"KD763.*'transform\.augment"):
        build_book(spec, out=built, set=["data.augment.shift=2"])
    assert content(built) == before


def test_other_passes_make_another_book(spec: Path, built: Path, tmp_path: Path) -> None:
    before = content(built)
    with pytest.raises(BookError, match=r"KD763.*'subgraph\.passes\.without'"):
        build_book(spec, out=built, without=["freeze"])
    assert content(built) == before

    narrow = ["models.teacher.precision=bf16"]
    build_book(spec, out=tmp_path / "wide", set=narrow, without=["precision"])
    build_book(spec, out=tmp_path / "narrow", set=narrow)
    wide, short = (Book.open(tmp_path / n).rows(torch.arange(20)) for n in ("wide", "narrow"))
    assert not torch.equal(wide["target"], short["target"])
    with pytest.raises(BookError, match=r"KD763.*'subgraph\.models\.teacher\.precision'"):
        kdgraph.compile(spec, set=narrow, book=tmp_path / "wide")
    kdgraph.compile(spec, book=tmp_path / "wide")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("book.store={teacher.logits: {top_k: 11}}", "KD760.*has no 11 classes"),
        ("losses={label: {use: cross_entropy, student: student.logits, target: label}}", "KD760"),
        (
            "losses.soft={use: soft_target, student: student.mid, teacher: teacher.mid}",
            "KD760.*is a map",
        ),
    ],
)
def test_what_cannot_be_kept(spec: Path, tmp_path: Path, change: str, said: str) -> None:
    changes = [change, "signals=null"] if change.startswith("losses=") else [change]
    if change.startswith("losses.soft"):
        changes += ["losses.hint=null", "book.store={teacher.mid: {top_k: 3}}"]
    with pytest.raises(BookError, match=said):
        build_book(spec, out=tmp_path, set=changes)


def test_values_that_are_not_finite_are_named(spec: Path, tmp_path: Path) -> None:
    own = spec_in(tmp_path)
    weights = load_file(tmp_path / "teacher.safetensors")
    weights["fc.weight"][0], weights["fc.bias"][0] = 3e38, 3e38  # what they give overflows
    save_file(weights, tmp_path / "teacher.safetensors")
    message = r"KD768.*'target' has values that are not finite \(samples 0 to 19\)"
    with pytest.raises(BookError, match=message):
        build_book(own, out=tmp_path / "book")
    assert not verify(tmp_path / "book").finished


def test_a_store_is_no_folder(spec: Path) -> None:
    with pytest.raises(BookError, match=re.escape("'s3://bucket/kd' is none")):
        build_book(spec, out="s3://bucket/kd")


TRAINED = ["train.teacher={epochs: 1}", "models.teacher.weights=null", "book.views=1"]


def test_teachers_are_trained_first_and_once(spec: Path, tmp_path: Path) -> None:
    build_book(spec, out=tmp_path, set=TRAINED)
    weights = tmp_path / TEACHERS / "teacher" / "weights.safetensors"
    trained = content(tmp_path)
    with pytest.raises(BookError, match=r"KD763.*'weights\.teacher\.training'"):
        build_book(spec, out=tmp_path, set=["train.teacher={epochs: 2}", *TRAINED[1:]])
    assert content(tmp_path) == trained  # neither the book nor its teachers
    assert build_book(spec, out=tmp_path, set=TRAINED).computed == 0
    checked = load_spec(spec, set=[f"models.teacher.weights={weights}", "book.views=1"])
    module = compile_teachers(checked, ["teacher.mid"])
    data, splits = open_data(checked)
    ids, batch = next(iter(view_loader(splits.train, data, views_of(checked, data), 0)))
    live, kept = module(**batch)["teacher.mid"], Book.open(tmp_path).rows(ids)["teacher.mid"]
    assert torch.equal(live, kept)


def test_two_builders_do_not_train_teachers_at_once(spec: Path, tmp_path: Path) -> None:
    (tmp_path / TEACHERS).mkdir()
    with locked(tmp_path / TEACHERS, alone=True), pytest.raises(BookError, match="KD766"):
        build_book(spec, out=tmp_path, set=TRAINED)


def test_ranks_need_trained_teachers(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BookError, match=r"KD760.*still to be trained"):
        build_book(spec, out=tmp_path, set=TRAINED)


def test_interruptions_at_any_line(spec: Path, tmp_path: Path) -> None:
    job = prepare(load_spec(spec), tmp_path, Place(0, 1, torch.device("cpu")))
    header = replace(job.header, shard_rows=job.header.batch)
    lines = traced(replace(job, out=tmp_path / "whole", header=header).run)
    expected, chance, count = content(tmp_path / "whole"), random.Random(1), 0
    for number in range(3):
        job = replace(job, out=tmp_path / f"{number}", header=header)
        for _ in range(3):
            try:
                traced(job.run, chance.randint(1, lines), interrupted)
            except Interrupted:
                count += 1
        assert job.run().finished
        assert content(job.out) == expected
    assert count >= 5


def test_a_device_that_is_not_there(spec: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"KD710.*'cuda:99' cannot be used"):
        build_book(spec, out=tmp_path, device="cuda:99")


def test_a_terminal_shows_rate_and_time_left() -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with counted(console, "teachers", 100) as tick:
        tick(40)
        sleep(0.6)  # longer than the bar takes to be drawn anew
        tick(10)
        sleep(0.6)
    shown = screen.getvalue()
    assert "teachers" in shown
    assert "50/100" in shown
    assert re.search(r"\d/s", shown)
    assert re.search(r"0:00:0\d", shown)
