"""``kdgraph explain``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from kdgraph.cli._costs import cost_tables
from kdgraph.cli._options import (
    book_option,
    compilation,
    format_option,
    spec_argument,
    stage_option,
)
from kdgraph.cli._plan import book_lines, plan_tables, start_table
from kdgraph.cli._show import console, plain, print_json, tell


@click.command("explain")
@spec_argument
@compilation
@stage_option
@book_option
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rows in the batch whose cost is shown; by default data.batch_size.",
)
@format_option
def command(
    spec: str,
    how: Mapping[str, Any],
    stage: str | None,
    book: str | None,
    batch: int | None,
    form: str,
) -> None:
    r"""Says what a spec compiles to and why, what a run will cost, and what looks unwise.

    How each model was captured, how deep each tap lies and how much of the input it sees, what
    every pass did and declined to do, which adapter and kernel each loss edge has and why; what a
    step costs in FLOPs and in memory, before and after the passes; how large a book would be; and
    warnings. Loads no weights and no data; small models take one step of random numbers.

    \b
    Examples:
      kdgraph explain kd.yaml
      kdgraph explain kd.yaml --format json | jq .warnings
      kdgraph explain kd.yaml --without prune
      kdgraph explain kd.yaml --batch 256
    """
    from kdgraph.train import explain

    facts, warnings = explain(spec, stage=stage, book=book, batch=batch, **how)
    if form == "json":
        print_json(facts)
        return
    out = console()
    if "stage" in facts:
        out.print(plain(f"stage {facts['stage']}"))
    for table in [*plan_tables(facts), *cost_tables(facts["cost"]), start_table(facts)]:
        if table is not None and table.row_count:
            out.print(table)
    for line in _lines(facts):
        out.print(plain(line))
    if warnings:
        out.print()
        tell(warnings, err=False)


def _lines(facts: dict[str, Any]) -> list[str]:
    """What is said in a line each."""
    lines = []
    if "unknown" in facts["cost"]:
        lines.append(f"cost not known: {facts['cost']['unknown']}")
    if "unknown" in facts["reach"]:
        lines.append(f"depth of taps not known: {facts['reach']['unknown']}")
    if "skipped" in facts["start"]:
        lines.append(f"losses at the start not known: {facts['start']['skipped']}")
    letters = ", ".join(f"{letter} = {size}" for letter, size in facts["example_sizes"].items())
    seconds = facts["seconds"]["total"]
    return [
        *lines,
        *book_lines(facts),
        f"{len(facts['nodes'])} nodes, planned in {seconds:.1f} s, shapes at {letters}",
    ]
