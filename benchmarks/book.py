"""A book against the teacher it stands for, and against torchdistill's cache, in one process.

``replay`` and ``replay_float32`` are what one batch of teacher logits takes from the book, and from
a live ResNet-50 on 64x64 images; ``step`` is a whole training step of a small student with either.
``reads`` is a random batch of 1000 logits from the book, as float16, and from torchdistill's cache;
``size`` is bytes on disk of the same rows, as the lengths of all files; ``size_blocks`` as the
blocks that the file system gives them. Files are in the page cache, times are medians of
samples taken in turn. Ratios are theirs over ours: more is better for the book.

torchdistill 1.0 to 1.1.4 had that cache (``CacheableDataset``: one file for each sample, written by
``torch.save``), 1.1.5 has none; what 1.1.4 writes and reads is done here in the same words.

    python benchmarks/book.py --format json
    python benchmarks/book.py --rows 20000 --rounds 100 --output benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

# where PYTHONSAFEPATH is set, the folder of a script is not on the path
sys.path.append(str(Path(__file__).parent))

from versus.machine import hardware, slug, told

import kdgraph
from kdgraph.book import Book, Column, Header, Writer
from kdgraph.book.origin import described
from kdgraph.spec.read import load_spec
from kdgraph.teachers import compile_teachers

CLASSES = 1000
SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "book",
    "batch": {
        "image": {"shape": ["B", 3, 64, 64]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": CLASSES},
    },
    "models": {
        "teacher": {"source": "torchvision/resnet50", "taps": {"logits": "output"}},
        "student": {
            "source": "cifar/resnet8",
            "args": {"num_classes": CLASSES},
            "taps": {"logits": "output"},
        },
    },
    "losses": {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "soft": {
            "use": "soft_target", "student": "student.logits", "teacher": "teacher.logits", "tau": 4
        },
    },
}  # fmt: skip
TARGETS = {"replay": 5.0, "reads": 10.0, "size": 3.0}


def main() -> None:
    """Measures every case and prints what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rows", type=int, default=5000, help="samples of the reading cases")
    parser.add_argument("--images", type=int, default=256, help="samples of the replay")
    parser.add_argument("--rounds", type=int, default=20, help="samples of each side")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for a file of the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = [*replay(Path(folder), options), *reads(Path(folder), options)]
    if options.format == "json":
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            target = f" (target {row['target']:g})" if row["target"] else ""
            figures = f"{row['ours']:.4g} against {row['theirs']:.4g} {row['unit']}"
            print(f"{row['case']:<16} {figures}: {row['ratio']:.3g} times better{target}")
    if options.output:
        path = options.output / f"book-{slug(hardware(torch.device('cpu')))}.json"
        content = {"environment": told(torch.device("cpu"), "safetensors"), "cases": rows}
        path.write_text(json.dumps(content, indent=2) + "\n")


def row(case: str, ours: float, theirs: float, unit: str, **more: Any) -> dict[str, Any]:
    """One line of the results."""
    found = {"case": case, "ours": ours, "theirs": theirs, "ratio": theirs / ours}
    return {**found, "target": TARGETS.get(case), "unit": unit, **more}


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> list[float]:
    """Median milliseconds of both, one after the other in each round; the first is not counted."""
    times: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for found, side in zip(times, (ours, theirs), strict=True):
            start = time.perf_counter()
            side()
            found.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(found[1:]) for found in times]


def written(
    path: Path, column: Column, values: Tensor, batch: int, made_of: Mapping[str, str] | None = None
) -> Book:
    """A book of one column."""
    header = Header.plan((column,), made_of or {}, len(values), 1, batch)
    with Writer(path, header) as writer:
        for shard in writer.missing():
            writer.write(shard, column.encode(values[shard.start : shard.stop]))
        writer.finish()
    return Book.open(path)


def replay(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The book in the place of a live teacher."""
    images = torch.randn(options.images, 3, 64, 64)
    labels = torch.randint(CLASSES, (options.images,))
    spec = load_spec(SPEC)
    live = kdgraph.compile(spec)
    teacher = compile_teachers(spec, ["teacher.logits"])
    made_of = described(spec, ["teacher.logits"])
    batches = torch.arange(options.images).split(options.batch)
    logits = torch.cat([teacher(image=images[ids])["teacher.logits"] for ids in batches])
    found = []
    for case, dtype in (("replay", "float16"), ("replay_float32", "float32")):
        column = Column("teacher.logits", (CLASSES,), dtype)  # type: ignore[arg-type]  # a name of the format, read from a list
        book = written(folder / dtype, column, logits, options.batch, made_of)
        ids = torch.randperm(options.images)[: options.batch]
        ours, theirs = in_turn(
            lambda b=book, i=ids: b.rows(i), lambda i=ids: teacher(image=images[i]), options.rounds
        )
        found.append(row(case, ours, theirs, "ms a batch"))
    booked = kdgraph.compile(spec, book=book)
    ids = torch.randperm(options.images)[: options.batch]

    def step(module: Any, more: Callable[[], dict[str, Tensor]]) -> Tensor:
        loss = module(image=images[ids], label=labels[ids], **more()).loss
        loss.backward()
        return loss.detach()

    ours, theirs = in_turn(
        lambda: step(booked, lambda: booked.book(ids)),
        lambda: step(live, dict),
        options.rounds,
    )
    return [*found, row("step", ours, theirs, "ms a step")]


class Cache:
    """What torchdistill 1.1.4 keeps of a teacher, one file for each sample."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, index: int) -> Path:
        """As ``default_idx2subpath``."""
        digits = f"{index:04d}"
        return self.folder / digits[-4:] / f"{digits}.pt"

    def write(self, outputs: Tensor) -> None:
        """As ``DistillationBox.get_teacher_output`` where nothing is hooked but the output."""
        for index, output in enumerate(outputs.numpy()):
            kept = {
                "teacher_outputs": torch.Tensor(output),
                "extracted_outputs": {".": {"output": torch.Tensor(output)}},
            }
            self.path(index).parent.mkdir(parents=True, exist_ok=True)
            torch.save(kept, self.path(index))

    def __getitem__(self, index: int) -> Any:
        """As ``CacheableDataset``; only tensors, in its own words any pickle."""
        if self.path(index).exists():
            return torch.load(self.path(index), weights_only=False)
        return None


def reads(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The book and the cache of torchdistill with the same rows."""
    logits = torch.randn(options.rows, CLASSES)
    cache = Cache(folder / "cache")
    cache.write(logits)
    books = {
        dtype: written(folder / f"reads-{dtype}", Column("t", (CLASSES,), dtype), logits, 64)  # type: ignore[arg-type]  # a name of the format, read from a list
        for dtype in ("float16", "float32")
    }
    chance = torch.Generator().manual_seed(1)
    found = []
    for case, dtype in (("reads", "float16"), ("reads_float32", "float32")):
        draws = iter(torch.randint(options.rows, (99999, options.batch), generator=chance))

        def theirs(draws: Any = draws) -> Any:
            return default_collate([cache[i] for i in next(draws).tolist()])

        def ours(draws: Any = draws, book: Book = books[dtype]) -> Any:
            return book.rows(next(draws))

        found.append(row(case, *in_turn(ours, theirs, options.rounds * 5), "ms a batch"))
    ids = torch.arange(options.batch)
    same = default_collate([cache[i] for i in ids.tolist()])["teacher_outputs"]
    assert torch.equal(books["float32"].rows(ids)["t"], same)
    paths = [books["float16"].path, cache.folder]
    for case, measure in (("size", length), ("size_blocks", blocks)):
        found.append(row(case, *(measure(p) / options.rows for p in paths), "bytes a sample"))
    return found


def length(folder: Path) -> int:
    """Bytes of all files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def blocks(folder: Path) -> int:
    """Bytes that the file system gives to all files."""
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file())


if __name__ == "__main__":
    main()
