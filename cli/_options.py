"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

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


trust_option = click.option(
    "--trust",
    multiple=True,
    metavar="MODULE",
    help="Lets python/ sources run code of this module; may be repeated.",
)


def overrides(command: F) -> F:
    """``--set`` and ``--trust``, as ``overrides`` and ``trust``."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="PATH=VALUE",
        help="Changes a value of the spec, as in losses.soft.tau=2; may be repeated.",
    )(trust_option(command))


def compilation(command: Callable[..., Any]) -> Callable[..., Any]:
    """``overrides``, ``--without`` and ``--also``, as one mapping ``how``.

    Its keys are those of ``kdgraph.compile``: ``set``, ``trust``, ``without``, ``also``.
    """

    @functools.wraps(command)
    def with_how(
        *args: Any,
        overrides: tuple[str, ...],
        trust: tuple[str, ...],
        without: tuple[str, ...],
        also: tuple[str, ...],
        **others: Any,
    ) -> Any:
        how = {"set": overrides, "trust": trust, "without": without, "also": also}
        return command(*args, how=how, **others)

    also_option = click.option(
        "--also",
        multiple=True,
        metavar="PASS",
        shell_complete=_complete_pass,
        help="Runs an optional pass that is off by default; may be repeated.",
    )
    without_option = click.option(
        "--without",
        multiple=True,
        metavar="PASS",
        shell_complete=_complete_pass,
        help="Leaves out an optional pass (see `list passes`); may be repeated.",
    )
    return overrides(without_option(also_option(with_how)))


def _complete_pass(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from kdgraph.passes.base import PASSES

    chosen = {name: p.default == (param.name == "without") for name, p in PASSES.items()}
    return [name for name, fits in chosen.items() if fits and name.startswith(incomplete)]


book_option = click.option(
    "--book",
    metavar="BOOK",
    help="The folder or URL of a book (`kdgraph book build`), read in the place of teachers.",
)


stage_option = click.option(
    "--stage",
    metavar="STAGE",
    help="Which stage, or phase as STAGE.PHASE; by default the first.",
)


def out_option(
    metavar: Literal["DIR", "FILE"], help: str, *, required: bool = True
) -> Callable[[F], F]:
    """``-o``/``--out``: where a command writes, a ``Path``; None where it may be left out."""
    return click.option(
        "-o",
        "--out",
        required=required,
        type=click.Path(dir_okay=metavar == "DIR", file_okay=metavar == "FILE", path_type=Path),
        metavar=metavar,
        help=help,
    )


format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How facts are printed on stdout.",
)
