"""``kdgraph compile``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kdgraph.cli._options import compilation, out_option, spec_argument


@click.command("compile")
@spec_argument
@out_option("DIR", "The folder to write; one from an earlier compilation is replaced.")
@compilation
def command(spec: str, out: Path, how: Mapping[str, Any]) -> None:
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

    report = kdgraph.compile(spec, **how).report
    for path in write_build(report, out):
        click.echo(path)
