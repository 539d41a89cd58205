"""``kdgraph taps``."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import click

from kdgraph.cli._inputs import BATCH, argument, example_inputs
from kdgraph.cli._inputs import size as read_size
from kdgraph.cli._options import format_option, trust_option
from kdgraph.cli._show import dims, print_json

if TYPE_CHECKING:
    from kdgraph.capture import TapInfo


@click.command("taps")
@click.argument("source", metavar="SOURCE/NAME")
@click.option(
    "--args",
    multiple=True,
    type=argument,
    metavar="KEY=VALUE",
    help="An argument of the model; may be repeated.",
)
@click.option(
    "--input",
    "size",
    type=read_size,
    metavar="3x224x224",
    help="Size of the input without the batch; left out: what the model is made for.",
)
@click.option(
    "--depth", type=click.IntRange(min=1), metavar="N", help="Only modules up to N levels deep."
)
@click.option("--match", metavar="PATTERN", help="Only paths like this, as in 'layer?.0'.")
@trust_option
@format_option
def command(
    source: str,
    args: tuple[tuple[str, Any], ...],
    size: tuple[int, ...] | None,
    depth: int | None,
    match: str | None,
    trust: tuple[str, ...],
    form: str,
) -> None:
    r"""Lists what can be tapped in a model, in the order of its forward, with shapes.

    Each line is a path to write under `taps:`; `PATH:in` taps what goes into the module
    instead, and `PATH@2` its second call. No weights are loaded.

    \b
    Examples:
      kdgraph taps timm/resnet50 --depth 1
      kdgraph taps timm/vit_tiny_patch16_224 --match 'blocks.?'
      kdgraph taps hf/bert --args num_hidden_layers=4 --input 128
    """
    from kdgraph.capture import list_taps
    from kdgraph.models.load import build_skeleton

    given = dict(args)
    module = build_skeleton(source, given, trust=trust).eval()
    found = list_taps(module, example_inputs(source, module, given, size))
    chosen = [t for t in found if _wanted(t, depth, match)]
    if form == "json":
        print_json([_facts(t) for t in chosen])
        return
    rows = [row for tap in chosen for row in _rows(tap)]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    for path, kind, shape, more in rows:
        name = click.style(f"{path:{widths[0]}}", bold=True)
        click.echo(f"{name}  {kind:{widths[1]}}  {shape:{widths[2]}}  {more}".rstrip())
    if not rows:
        click.echo("nothing fits; leave out --match or --depth to see all", err=True)


def _wanted(tap: TapInfo, depth: int | None, match: str | None) -> bool:
    if depth is not None and tap.path.count(".") >= depth:
        return False
    return match is None or fnmatch(tap.path, match) or match in tap.path


def _facts(tap: TapInfo) -> dict[str, Any]:
    tensors = [
        {"tap": path, "shape": _lettered(shape), "dtype": dtype}
        for path, shape, dtype in zip(tap.taps, tap.shapes, tap.dtypes, strict=True)
    ]
    return {"path": tap.path, "type": tap.module_type, "calls": tap.calls, "tensors": tensors}


def _rows(tap: TapInfo) -> list[tuple[str, str, str, str]]:
    rows = []
    for path, shape, dtype in zip(tap.taps, tap.shapes, tap.dtypes, strict=True):
        calls = f"called {tap.calls} times" if tap.calls > 1 else ""
        more = ", ".join(m for m in (dtype if dtype != "float32" else "", calls) if m)
        rows.append((path, tap.module_type, dims(_lettered(shape)), more))
    return rows


def _lettered(shape: tuple[int, ...]) -> list[int | str]:
    return ["B" if i == 0 and s == BATCH else s for i, s in enumerate(shape)]
