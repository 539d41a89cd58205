"""The plan before the run, as data: what ``kdgraph explain`` prints."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kdgraph.book import Book
from kdgraph.compiler import plan
from kdgraph.errors import Diagnostic
from kdgraph.spec.language import Spec
from kdgraph.spec.read import load_spec
from kdgraph.train.first_step import first_step
from kdgraph.train.foresee import BookSize, book_size
from kdgraph.visual import manifest
from kdgraph.visual.advice import Sight, advise
from kdgraph.visual.costs import batch_rows
from kdgraph.visual.edges import edges
from kdgraph.visual.start import Start

Source = str | Path | Mapping[str, Any] | Spec


def explain(
    spec: Source,
    *,
    trust: Collection[str] = (),
    set: Sequence[str] = (),
    without: Collection[str] = (),
    also: Collection[str] = (),
    stage: str | None = None,
    book: Book | str | Path | None = None,
    batch: int | None = None,
) -> tuple[dict[str, Any], list[Diagnostic]]:
    """Everything that is known of a run before it starts; reads no weights and no data.

    Args are those of ``kdgraph.plan``, and:
        batch: rows in the batch whose cost is told; left out: ``data.batch_size``.

    Returns:
        The manifest with, added: ``edges`` (``kdgraph.visual.edges``), ``reach`` (depth and
        receptive field of each tap), ``start`` (what the edges say before the first step),
        ``book`` (what a book would hold) and ``warnings``. And the warnings themselves.

    Raises:
        KDGraphError: as ``kdgraph.plan``.
    """
    checked = spec if isinstance(spec, Spec) else load_spec(spec, set=set)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what adapters start from is part of what is told
        report = plan(checked, trust=trust, without=without, also=also, stage=stage, book=book)
    facts = manifest(report, batch=batch)
    rows, origin = batch_rows(report.spec, batch)
    sight = Sight(report, rows if origin != "example" else None)
    if book is None:
        sight.start = first_step(checked, sight, facts["cost"], trust=trust)
        size = book_size(checked, trust=trust)
    else:
        sight.start = Start(0, {}, "values of a book are not read")
        size = BookSize(skipped="values of teachers are read from a book")
    found = advise(sight)
    reach: dict[str, Any] = {r: asdict(at) for r, at in sight.reach.items()}
    facts |= {
        "edges": edges(report),
        "reach": reach if sight.blind is None else {"unknown": sight.blind},
        "start": sight.start.as_dict(),
        "book": size.as_dict(),
        "warnings": [d.as_dict() for d in found],
    }
    facts["nodes"] = facts.pop("nodes")  # the longest comes last
    facts["seconds"] = facts.pop("seconds")
    return facts, found
