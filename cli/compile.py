"""``kdgraph compile``."""

from __future__ import annotations

from pathlib import Path

import click

from kdgraph.cli._options import overrides, spec_argument


@click.command("compile")
@spec_argument
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The folder to write; one from an earlier compilation is replaced.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="PASS",
    help="Leaves out an optional pass; see `list passes`.",
)
@overrides
def command(
    spec: str,
    out: Path,
    without: tuple[str, ...],
    overrides: tuple[str, ...],
    trust: tuple[str, ...],
) -> None:
    r"""Compiles a spec, with its weights, into a folder.

    \b
    graph.py        the training step as Python that can be read and run
    manifest.json   nodes, shapes, passes, captures, hashes and versions
    spec.lock.yaml  the spec with everything resolved

    \b
    Examples:
      kdgraph compile kd.yaml -o build/kd
      kdgraph compile kd.yaml -o build/kd --set losses.soft.tau=2 --without prune
    """
    import kdgraph
    from kdgraph.visual import write_build

    report = kdgraph.compile(spec, set=overrides, trust=trust, without=without).report
    for path in write_build(report, out):
        click.echo(path)
