"""``kdgraph draw``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kdgraph.cli._options import book_option, compilation, out_option, spec_argument, stage_option


@click.command("draw")
@spec_argument
@out_option("FILE", "The picture; its suffix (.html, .svg, .png, .dot, .mmd) says in which form.")
@click.option(
    "--depth",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Not for .html. 0: one box from tap to tap; N: one for each module N levels deep.",
)
@compilation
@stage_option
@book_option
def command(
    spec: str,
    out: Path,
    depth: int,
    stage: str | None,
    book: str | None,
    how: Mapping[str, Any],
) -> None:
    r"""Draws the compiled graph: models, taps, adapters, signals, losses, total.

    HTML is one page that needs no network: modules unfold, a click shows what is known of a node,
    and it steps through stages and passes. DOT and Mermaid are text; SVG and PNG are laid out by
    Graphviz, from `pip install 'kdgraph[draw]'` or the system. What the passes cut off is faded.

    A page shows every stage of the spec, other forms the first, and all of them that of `--stage`.

    \b
    Examples:
      kdgraph draw kd.yaml -o kd.html
      kdgraph draw kd.yaml -o kd.svg
      kdgraph draw kd.yaml -o kd.mmd --depth 1
    """
    import kdgraph
    from kdgraph.visual import form_of

    try:
        form_of(out)  # before the models are captured
    except kdgraph.KDGraphError as error:
        (wrong,) = error.diagnostics
        raise click.BadParameter(f"{wrong.message}; {wrong.help}", param_hint="-o") from None
    click.echo(kdgraph.draw(spec, depth=depth, stage=stage, book=book, **how).save(out))
