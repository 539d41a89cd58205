"""``kdgraph schema``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kdgraph.cli._options import out_option


@click.command("schema")
@out_option("FILE", "Left out: stdout.", required=False)
def command(out: Path | None) -> None:
    r"""Prints the JSON Schema of specs, for editors.

    It holds every loss, signal and adapter that is installed, with keys and defaults. An editor
    with a YAML language server reads it through a first line in the spec:
    `# yaml-language-server: $schema=kdgraph.schema.json`.

    \b
    Examples:
      kdgraph schema -o kdgraph.schema.json
    """
    from kdgraph.spec.jsonschema import json_schema

    text = json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        click.echo(out)
