"""A small book whose values are known, and what is needed to write it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kdgraph.book import Book, Column, Header, Shard, Writer

COLUMNS = (
    Column("teacher.logits", (5,), "float16"),
    Column("teacher.mid", (2, 3)),
    Column("top", (5,), "float32", "top_k", 2),
)


def values(view: int, ids: Tensor) -> dict[str, Tensor]:
    """What a teacher would give: another number for every sample, view and place."""
    base = (ids * 10 + view).float()
    wave = (base[:, None] + torch.arange(6)).sin()
    return {"teacher.logits": wave[:, :5], "teacher.mid": wave.view(-1, 2, 3), "top": wave[:, 1:]}


def parts(shard: Shard) -> dict[str, Tensor]:
    """A shard as it is kept."""
    found = values(shard.view, torch.arange(shard.start, shard.stop))
    return {n: x for c in COLUMNS for n, x in c.encode(found[c.name]).items()}


def plan(rows: int = 23, views: int = 2, **changed: str) -> Header:
    """Four shards of six samples in each of two views."""
    fingerprint = {"weights": "w", "data": "d", **changed}
    return Header.plan(COLUMNS, fingerprint, rows, views, batch=2, shard_rows=6)


def write(path: Path, header: Header | None = None) -> Book:
    """A finished book."""
    with Writer(path, header or plan()) as writer:
        for shard in writer.missing():
            writer.write(shard, parts(shard))
        assert writer.finish()
    return Book.open(path)


def content(path: Path) -> dict[str, bytes]:
    """Every file of a book."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
