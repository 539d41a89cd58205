"""``kdgraph book``: teacher knowledge on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdgraph.cli._options import compilation, format_option, out_option, spec_argument
from kdgraph.cli._ranks import many_option, speaks, start_others
from kdgraph.cli._show import console, dims, new_table, plain, print_json

if TYPE_CHECKING:
    from kdgraph.book import Verdict

folder_argument = click.argument("folder", metavar="DIR")


@click.group("book")
def command() -> None:
    r"""Keeps what teachers say on disk, so that training needs no teacher.

    \b
    Examples:
      kdgraph book build kd.yaml -o books/kd
      kdgraph book info books/kd
      kdgraph book verify books/kd
    """


@command.command("build")
@spec_argument
@out_option("DIR", "The folder of the book; what an earlier build left in it is kept.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Samples that go through the teachers at once.  [default: data.batch_size]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that load samples.  [default: data.workers]",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or mps.")
@many_option
@compilation
@format_option
def build(
    spec: str,
    out: Path,
    batch_size: int | None,
    workers: int | None,
    device: str,
    devices: int | None,
    how: Mapping[str, Any],
    form: str,
) -> None:
    r"""Runs the teachers of a spec over its training data, once, and keeps what they say.

    What is kept, and how, is said by the spec's `book` block; left out, whatever the losses read
    of frozen models. A build that was interrupted goes on with the same command, and shards that
    are damaged are computed again. With --devices, or under torchrun, each process computes its
    share.

    \b
    Examples:
      kdgraph book build kd.yaml -o books/kd
      kdgraph book build kd.yaml -o books/kd --device cuda --batch-size 256 --workers 8
      kdgraph book build kd.yaml -o books/kd --devices 4
      torchrun --nproc-per-node 4 -m kdgraph book build kd.yaml -o books/kd
    """
    start_others(devices)
    from rich.console import Console

    from kdgraph.book.header import in_units
    from kdgraph.train import build_book
    from kdgraph.train.launch import one_voice

    with one_voice():
        built = build_book(
            spec,
            out=out,
            batch_size=batch_size,
            workers=workers,
            device=device,
            console=Console(stderr=True),
            **how,
        )
    if not speaks():
        return
    if form == "json":
        print_json(built.as_dict())
        return
    rate = built.computed / built.seconds if built.seconds else 0
    what = f"{built.computed:,} samples in {built.seconds:.1f} s ({rate:,.0f}/s)"
    if not built.computed:
        what = "everything was there"
    end = "" if built.finished else "; shards of other processes are still missing"
    click.echo(f"{built.path}: {in_units(built.bytes)}; {what}{end}")


@command.command("info")
@folder_argument
@format_option
def info(folder: str, form: str) -> None:
    r"""Says what a book holds and what it was made of.

    \b
    Examples:
      kdgraph book info books/kd
    """
    from kdgraph.book import Header
    from kdgraph.book.header import in_units
    from kdgraph.book.remote import local
    from kdgraph.book.verify import present, size

    path = local(folder)
    header, (there, finished) = Header.read(path), present(path)
    facts = {
        "path": folder,
        "finished": finished,
        "rows": header.rows,
        "views": header.views,
        "batch_size": header.batch,
        "shards": header.views * header.shards_per_view,
        "shards_present": there,
        "bytes": size(path),
        "columns": [{**c.as_dict(), "bytes": c.bytes} for c in header.columns],
        "fingerprint": header.fingerprint,
    }
    if form == "json":
        print_json(facts)
        return
    views = f" in {header.views} views" if header.views > 1 else ""
    state = "" if finished else f", NOT FINISHED: {there} of {facts['shards']} shards"
    out = console()
    out.print(f"{folder}: {header.rows:,} samples{views}, {in_units(size(path))}{state}")
    table = new_table("columns", "name", "sample", "kept as", "*bytes a sample")
    for column in header.columns:
        kept = f"top {column.k}, {column.dtype}" if column.k else column.dtype
        table.add_row(column.name, dims(column.shape), kept, f"{column.bytes:,}")
    out.print(table)
    table = new_table("made of", "field", "value")
    for field, value in header.fingerprint.items():
        table.add_row(plain(field), plain(value))
    out.print(table)


@command.command("verify")
@folder_argument
@format_option
@click.pass_context
def check(ctx: click.Context, folder: str, form: str) -> None:
    r"""Reads all of a book and compares it with its checksums; exits with 1 where it differs.

    \b
    Examples:
      kdgraph book verify books/kd
    """
    from kdgraph.book import verify

    verdict = verify(folder)
    if form == "json":
        print_json({"path": folder, "sound": verdict.sound, **asdict(verdict)})
    else:
        _tell(folder, verdict)
    if not verdict.sound:
        ctx.exit(1)


def _tell(folder: str, verdict: Verdict) -> None:
    if verdict.sound:
        click.echo(f"{folder}: all {verdict.shards} shards are sound")
        return
    for name, why in verdict.damaged.items():
        click.echo(f"{folder}: damaged shard {name}: {why}")
    if verdict.missing:
        numbers = ", ".join(map(str, verdict.missing[:10])) + (
            ", ..." * (len(verdict.missing) > 10)
        )
        click.echo(
            f"{folder}: {len(verdict.missing)} of {verdict.shards} shards missing: {numbers}"
        )
    if not verdict.finished:
        click.echo(f"{folder}: not finished")
    click.echo("`kdgraph book build` with the same spec computes what is missing, and only that")
