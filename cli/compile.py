"""``kdgraph compile``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kdgraph.cli._options import book_option, compilation, out_option, spec_argument, stage_option


@click.command("compile")
@spec_argument
@out_option("DIR", "The folder to write; one from an earlier compilation is replaced.")
@compilation
@stage_option
@book_option
def command(
    spec: str, out: Path, stage: str | None, book: str | None, how: Mapping[str, Any]
) -> None:
    r"""Compiles a spec, with its weights, into a folder.

    \b
    graph.py        the training step as Python that can be read and run
    graph.html      its picture, to open in a browser
    manifest.json   nodes, shapes, passes, captures, hashes and versions
    spec.lock.yaml  the spec with everything resolved

    A spec with stages gives such a folder for each of them, by its name, or only for that of
    `--stage`.

    \b
    Examples:
      kdgraph compile kd.yaml -o build/kd
      kdgraph compile kd.yaml -o build/kd --set losses.soft.tau=2 --without prune
    """
    import kdgraph
    from kdgraph.spec.legs import stage_of
    from kdgraph.spec.read import load_spec
    from kdgraph.visual import write_build

    if stage is not None:
        stage_of(load_spec(spec, set=how["set"]), stage)
    step = kdgraph.compile(spec, book=book, **how)
    legs = [*step.stages.legs()] if step.stages else [""]
    if stage is not None:
        legs = legs[: legs.index(stage) + 1]
    for leg in legs:
        if leg != legs[0]:
            step.set_stage(leg)
        if stage in (None, leg):
            for path in write_build(step.report, out / leg if stage is None else out):
                click.echo(path)
