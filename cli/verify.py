"""``kdgraph verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kdgraph.cli._options import format_option, overrides, spec_argument
from kdgraph.cli._show import console, new_table, plain, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from kdgraph.verify import Row, Verdict


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from kdgraph.verify import CHECKS

    return [name for name in CHECKS.names() if name.startswith(incomplete)]


@click.command("verify")
@spec_argument
@click.option(
    "--ranks", type=click.IntRange(min=2), default=2, show_default=True,
    help="Processes that share the batch.",
)  # fmt: skip
@click.option(
    "--micro", type=click.IntRange(min=2), default=2, show_default=True,
    help="Batches over which gradients are accumulated.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(min=1),
    help="Rows of the batch.  [default: those of training, or 16 random ones]",
)  # fmt: skip
@click.option(
    "--only", multiple=True, metavar="NAME", shell_complete=_complete,
    help="Runs this check (see `list verify`); may be repeated.",
)  # fmt: skip
@click.option(
    "--tolerance", type=click.FloatRange(min=0), metavar="X",
    help="The largest relative difference that is rounding.  [default: 1e-9, float32: 1e-3]",
)  # fmt: skip
@click.option(
    "--double/--single", default=None,
    help="Computes in float64, which tells a mistake from rounding.  [default: on the CPU]",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or mps.")
@overrides
@format_option
@click.pass_context
def command(
    ctx: click.Context,
    spec: str,
    ranks: int,
    micro: int,
    batch: int | None,
    only: tuple[str, ...],
    tolerance: float | None,
    double: bool | None,
    device: str,
    overrides: tuple[str, ...],
    trust: tuple[str, ...],
    form: str,
) -> None:
    r"""Proves on this machine that what has to be equal is equal.

    Runs the spec's first training batch, or a random one where it has no data, in several ways:
    by one process and by several, as one batch and as small ones, interrupted and not, compiled
    and not, with a book and with the teachers. Exits with 1 where a difference is more than
    rounding, or a check cannot be run to its end. docs/verify.md has the details.

    \b
    Examples:
      kdgraph verify kd.yaml
      kdgraph verify kd.yaml --ranks 4 --micro 8
      kdgraph verify kd.yaml --only ranks --only accumulation --single
      kdgraph verify kd.yaml --format json | jq .rows
    """
    from rich.console import Console

    from kdgraph.verify import verify

    verdict = verify(
        spec, ranks=ranks, micro=micro, batch=batch, only=only, tolerance=tolerance,
        double=double, device=device, trust=trust, set=overrides, console=Console(stderr=True),
    )  # fmt: skip
    if form == "json":
        print_json(verdict.as_dict())
    else:
        _tell(verdict)
    if not verdict.holds:
        ctx.exit(1)


def _tell(verdict: Verdict) -> None:
    out = console()
    out.print(_table(verdict))
    out.print(plain(f"{verdict.batch}; {verdict.precision} on {verdict.device}"))
    for note in verdict.notes:
        out.print(plain(note))


def _table(verdict: Verdict) -> Table:
    table = new_table(
        f"verify {verdict.spec}", "check", "what is compared", "of", "*absolute", "*relative",
        "at", "*tolerance", "result",
    )  # fmt: skip
    for row in verdict.rows:
        table.add_row(*_cells(row))
    return table


_TONES = {"ok": "green", "differs": "red", "failed": "red", "not applicable": "yellow"}


def _cells(row: Row) -> list[str]:
    said = "\n".join([row.compared, *row.notes])
    result = f"[{_TONES[row.status]}]{row.status}[/]"
    if row.why is not None:
        result += f": {plain(row.why)}"
    gaps = row.gaps.values()
    return [
        row.check,
        plain(said),
        "\n".join(row.gaps),
        "\n".join(f"{gap.absolute:.1e}" for gap in gaps),
        "\n".join(f"{gap.relative:.1e}" for gap in gaps),
        "\n".join(plain(gap.at) for gap in gaps),
        "" if row.tolerance is None else f"{row.tolerance:.0e}" if row.tolerance else "0",
        result,
    ]
