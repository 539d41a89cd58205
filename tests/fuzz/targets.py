"""What reads files of others, as functions of bytes: each either works or raises `KDGraphError`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from kdgraph.book.header import Header, checksum
from kdgraph.book.store import Book
from kdgraph.book.verify import verify
from kdgraph.errors import Diagnostic, KDGraphError
from kdgraph.importers.torchdistill import Torchdistill
from kdgraph.models.weights import load_weights
from kdgraph.spec.read import diagnose

GOOD = """\
kdgraph: 1
name: good
batch: {image: {shape: [B, 3, 8, 8]}, label: {shape: [B], dtype: int64, classes: 10}}
models:
  teacher: {source: cifar/resnet8, taps: {mid: layer2, logits: output}}
  student: {source: cifar/resnet8, taps: {mid: layer2, logits: output}}
links: {mid: {student: student.mid, teacher: teacher.mid}}
losses:
  label: {use: cross_entropy, student: student.logits, target: label}
  hint: {use: hint, link: mid, weight: {linear: [1.0, 0.0], epochs: [0, 9]}}
"""
_LONGEST = 20_000  # characters of all that is said


@cache
def _folder() -> Path:
    """A place of this process alone, kept until it ends."""
    held = tempfile.TemporaryDirectory(prefix="kdgraph-fuzz-")
    _HELD.append(held)
    return Path(held.name)


_HELD: list[Any] = []


def _told(found: tuple[Diagnostic, ...] | list[Diagnostic]) -> None:
    for one in found:
        said = str(one)
        assert said.replace("\n", "").isprintable(), repr(said)
        assert len(said) < _LONGEST, len(said)
        json.dumps(one.as_dict()).encode()


def _or_refused(run: Callable[[], object]) -> None:
    try:
        run()
    except KDGraphError as error:
        assert error.diagnostics  # noqa: PT017 - whether it raises is not known
        _told(error.diagnostics)


def spec(data: bytes) -> None:
    """A file that ``kdgraph check`` is given."""
    file = _folder() / "spec.yaml"
    file.write_bytes(data)
    found, told = diagnose(str(file))
    assert (found is None) == any(d.severity == "error" for d in told)
    _told(told)


def override(data: bytes) -> None:
    """The values of ``--set``, one on each line."""
    texts = data.decode("utf-8", "surrogateescape").split("\n")
    found, told = diagnose(GOOD, texts)
    assert (found is None) == any(d.severity == "error" for d in told)
    _told(told)


def weights(data: bytes) -> None:
    """A file of weights; the first byte says of which kind."""
    from torch import nn

    file = _folder() / ("w.safetensors" if data[:1] == b"s" else "w.pt")
    file.write_bytes(data[1:])
    _or_refused(lambda: load_weights(nn.Linear(2, 2), file))


def book(data: bytes) -> None:
    """The header of a book and, behind a blank line, its list; both get their checksums."""
    folder = _folder() / "book"
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    header, _, listed = data.partition(b"\n\n")
    written = _summed(header)
    (folder / "book.json").write_bytes(written)
    (folder / "shards.json").write_bytes(_summed(listed, of=written))

    def run() -> None:
        found = Header.read(folder)
        verify(folder)
        assert found.total_bytes >= 0
        Book.open(folder)

    _or_refused(run)


def _summed(data: bytes, of: bytes | None = None) -> bytes:
    """JSON with the checksum that it should have, if it is a mapping; a list is of a header."""
    try:
        content = json.loads(data)
        content.pop("checksum", None)
        if of is not None:
            content["book"] = json.loads(of)["checksum"]
        text = json.dumps(content, sort_keys=of is None)
        return json.dumps({**content, "checksum": checksum(text.encode())}).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return data


def importer(data: bytes) -> None:
    """A file that ``kdgraph import torchdistill`` is given."""
    file = _folder() / "config.yaml"
    file.write_bytes(data)
    _or_refused(lambda: Torchdistill().read(str(file)))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "spec": spec, "override": override, "weights": weights, "book": book, "importer": importer
}  # fmt: skip
