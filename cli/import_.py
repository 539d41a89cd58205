"""``kdgraph import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdgraph.cli._options import format_option, out_option
from kdgraph.cli._show import plain, print_json, tell

if TYPE_CHECKING:
    from kdgraph.importers.base import Imported


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from kdgraph.importers.base import IMPORTERS

    return [name for name in IMPORTERS.names() if name.startswith(incomplete)]


@click.command("import")
@click.argument("tool", metavar="TOOL", shell_complete=_complete)
@click.argument("config", metavar="CONFIG", type=click.Path())
@out_option("FILE", "Left out: stdout.", required=False)
@format_option
@click.pass_context
def command(ctx: click.Context, tool: str, config: str, out: Path | None, form: str) -> None:
    r"""Writes a spec from another tool's configuration, and says what it could not carry.

    TOOL is `torchdistill`. Nothing that the file names is imported, called or opened: constructor
    tags are read as words. Every key of the file either stands in the spec or is listed on stderr
    with the reason.

    \b
    Examples:
      kdgraph import torchdistill resnet18_from_resnet34.yaml -o kd.yaml
      kdgraph import torchdistill resnet18_from_resnet34.yaml --format json
    """
    if out is not None and out.exists():
        raise click.BadParameter(f"{out} exists; name another file, or remove it", param_hint="-o")
    from kdgraph.importers.base import IMPORTERS

    found = IMPORTERS.get(tool)().read(config)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(found.text, encoding="utf-8")
    if form == "json":
        print_json({
            "spec": found.text,
            "carried": [entry.as_dict() for entry in found.carried],
            "left": [entry.as_dict() for entry in found.left],
        })  # fmt: skip
    else:
        if out is None:
            click.echo(found.text, nl=False)
        _report(found, config)
        if out is not None:
            click.echo(f"{out}  next: kdgraph check {out}", err=True)
    tell(found.problems)
    if found.problems:
        ctx.exit(1)


def _report(found: Imported, config: str) -> None:
    """What was left out, on stderr: one line each, with its place."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    count = f"{len(found.carried)} parts of {config} are carried"
    if not found.left:
        console.print(plain(f"{count}, all there are"))
        return
    console.print(plain(f"{count}; {len(found.left)} are not, or mean something else here:"))
    for entry in found.left:
        place = plain(str(entry.span or entry.where))
        console.print(f"[bold]{place}[/]: [yellow]{plain(entry.what)}[/]: {plain(entry.why)}")
