"""``kdgraph explain``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from kdgraph.cli._costs import cost_tables
from kdgraph.cli._options import (
    book_option,
    compilation,
    format_option,
    spec_argument,
    stage_option,
)
from kdgraph.cli._show import console, count, dims, new_table, print_json

if TYPE_CHECKING:
    from rich.table import Table


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
    r"""Says what a spec compiles to, and why it looks as it does.

    How each model was captured, what every pass did and declined to do, which adapters were
    chosen, what each loss reads; what a step costs in FLOPs and in memory, and what of it the
    passes have saved. Loads no weights.

    \b
    Examples:
      kdgraph explain kd.yaml
      kdgraph explain kd.yaml --format json | jq .passes
      kdgraph explain kd.yaml --without prune
      kdgraph explain kd.yaml --batch 256
    """
    import kdgraph
    from kdgraph.visual import manifest

    facts = manifest(kdgraph.plan(spec, stage=stage, book=book, **how), batch=batch)
    if form == "json":
        print_json(facts)
        return
    out = console()
    if "stage" in facts:
        out.print(_plain(f"stage {facts['stage']}"))
    tables = [_models(facts), _taps(facts), _links(facts), _losses(facts), _passes(facts)]
    for table in [*tables, *cost_tables(facts["cost"])]:
        if table.row_count:
            out.print(table)
    seconds, sizes = facts["seconds"], facts["example_sizes"]
    letters = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
    out.print(
        f"{len(facts['nodes'])} nodes, planned in {seconds['total']:.1f} s, shapes at {letters}"
    )
    if "unknown" in facts["cost"]:
        out.print(_plain(f"cost not known: {facts['cost']['unknown']}"))


def _models(facts: dict[str, Any]) -> Table:
    table = new_table("models", "model", "source", "role", "parameters", "used", "capture")
    for name, model in facts["models"].items():
        whys = [f"not {d['rung']}: {d['reason']}" for d in model["declined"]]
        table.add_row(
            name,
            _source(model),
            "[dark_orange]trained[/]" if model["trainable"] else "[blue]frozen[/]",
            count(model["parameters"]),
            f"{model['parameters_used'] / max(model['parameters'], 1):.0%}",
            "\n".join([model["capture"], *whys]),
        )
    return table


def _source(model: dict[str, Any]) -> str:
    """``timm/resnet18``, or whose network another call is one of."""
    if "same_as" in model:
        return f"another call of {model['same_as']}"
    if "snapshot_of" in model:
        return f"snapshot of {model['snapshot_of']}"
    passes = f", {model['passes']} passes" if "passes" in model else ""
    dropout = ", dropout on" if "dropout" in model else ""
    return f"{model['source'] or 'given as a module'}{passes}{dropout}"


def _taps(facts: dict[str, Any]) -> Table:
    table = new_table("taps", "tap", "reads", "shape")
    for name, model in facts["models"].items():
        for tap, found in model["taps"].items():
            table.add_row(f"{name}.{tap}", _plain(found["path"]), _plain(dims(found["shape"])))
    return table


def _links(facts: dict[str, Any]) -> Table:
    table = new_table("links", "link", "student", "teacher", "adapter", "parameters")
    for name, link in facts["links"].items():
        size = count(link["parameters"])
        table.add_row(name, link["student"], link["teacher"], link["adapter"], size)
    return table


def _losses(facts: dict[str, Any]) -> Table:
    table = new_table("losses and signals", "name", "use", "reads", "weight")
    for name, signal in facts["signals"].items():
        table.add_row(name, signal["use"], ", ".join(signal["reads"]), "")
    for name, loss in facts["losses"].items():
        weight = loss["weight"]
        shown = f"{weight:g}" if isinstance(weight, float) else str(weight)
        table.add_row(name, f"[red]{loss['use']}[/]", ", ".join(loss["reads"]), shown)
    return table


def _passes(facts: dict[str, Any]) -> Table:
    table = new_table("passes", "pass", "did", "nodes")
    for step in facts["passes"]:
        lines = [*step["did"], *(f"declined: {line}" for line in step["declined"])]
        change = f"{step['nodes_before']} to {step['nodes_after']}"
        table.add_row(step["name"], _plain("\n".join(lines) or "nothing to do"), change)
    return table


def _plain(text: str) -> str:
    """Text in which rich reads no markup: shapes and paths have brackets."""
    from rich.markup import escape

    return escape(text)
