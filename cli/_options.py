"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class SpecPath(click.Path):
    """A spec's file, or the name of a spec that ships with kdgraph."""

    name = "spec"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path of the file; one that is not there is the reader's to report."""
        path = str(value)
        shipped = resources.files("kdgraph.specs") / f"{path}.yaml"
        if not Path(path).exists() and shipped.is_file():
            return str(shipped)
        return path


spec_argument = click.argument("spec", type=SpecPath(), metavar="SPEC")


def overrides(command: F) -> F:
    """``--set`` and ``--trust``, as ``overrides`` and ``trust``."""
    command = click.option(
        "--trust",
        multiple=True,
        metavar="MODULE",
        help="Lets python/ sources run code of this module; may be repeated.",
    )(command)
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="PATH=VALUE",
        help="Changes a value of the spec, as in losses.soft.tau=2; may be repeated.",
    )(command)


format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How facts are printed on stdout.",
)
