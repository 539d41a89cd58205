"""``kdgraph draw``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kdgraph.cli._options import book_option, compilation, out_option, spec_argument, stage_option

_FORMS = {".dot": "dot", ".mmd": "mermaid", ".svg": "svg"}


@click.command("draw")
@spec_argument
@out_option("FILE", "The picture; its suffix (.svg, .dot, .mmd) says in which form.")
@click.option(
    "--depth",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="0: one box from tap to tap; N: one box for each module N levels deep.",
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

    What the passes cut off is drawn faded. DOT and Mermaid are text and need nothing more; SVG
    is laid out by Graphviz, from `pip install 'kdgraph[draw]'` or the system.

    \b
    Examples:
      kdgraph draw kd.yaml -o kd.svg
      kdgraph draw kd.yaml -o kd.mmd --depth 1
    """
    form = _FORMS.get(out.suffix.lower())
    if form is None:
        raise click.BadParameter(
            f"must end in {', '.join(_FORMS)}, not {out.name!r}", param_hint="-o"
        )
    import kdgraph
    from kdgraph import visual

    drawn = visual.picture(kdgraph.plan(spec, stage=stage, book=book, **how), depth=depth)
    text: str = getattr(visual, form)(drawn)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    click.echo(out)
