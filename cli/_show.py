"""What commands print: diagnostics on stderr, facts on stdout."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from kdgraph.errors import Diagnostic, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def tell(found: Iterable[Diagnostic], *, err: bool = True) -> None:
    """Writes diagnostics to stderr, or to stdout, coloured where it is a terminal."""
    colour = None if "NO_COLOR" not in os.environ else False
    for diagnostic in found:
        click.echo(_coloured(diagnostic), err=err, color=colour)


def _coloured(found: Diagnostic) -> str:
    """The diagnostic's own text with colours on it; click takes them off for a file."""
    head, *rest = str(found).split("\n")
    tone = "red" if found.severity == "error" else "yellow"
    mark = f"{found.severity}[{found.code}]"
    place, _, message = head.partition(mark)
    lines = [f"{click.style(place, bold=True)}{click.style(mark, fg=tone, bold=True)}{message}"]
    for line in rest:
        if re.fullmatch(r"[ |]*\^+", line):
            lines.append(
                line.replace("^", "").rstrip("\n") + click.style("^" * line.count("^"), fg=tone)
            )
        elif line.startswith("   help: "):
            lines.append(click.style("   help: ", fg="cyan") + line.removeprefix("   help: "))
        else:
            lines.append(line)
    return "\n".join(lines)


def print_json(facts: Any) -> None:
    """Facts for programs, on stdout."""
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False))


def console() -> Console:
    """Where tables are printed: stdout, as wide as it is; a file gets room for long lines."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160
    return Console(width=width, highlight=False, soft_wrap=False)


def new_table(title: str, *columns: str) -> Table:
    """An empty table; the numbers of a column whose name starts with ``*`` stand to the right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        name = column.removeprefix("*")
        made.add_column(name, overflow="fold", justify="left" if name == column else "right")
    return made


def count(number: int) -> str:
    """``25.6M``: a number of parameters in a table."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return str(number)


def dims(shape: Iterable[Any] | None) -> str:
    """``[B, 64, 8, 8]``."""
    return "" if shape is None else "[" + ", ".join(str(s) for s in shape) + "]"


def plain(text: str) -> str:
    """Text in which rich reads no markup, as shapes and paths have brackets, nor a terminal any."""
    from rich.markup import escape

    return escape(visible(text))
