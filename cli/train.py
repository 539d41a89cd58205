"""``kdgraph train``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kdgraph.cli._options import book_option, compilation, format_option, out_option, spec_argument
from kdgraph.cli._ranks import many_option, nodes_option, speaks, start_others
from kdgraph.cli._show import print_json


@click.command("train")
@spec_argument
@out_option("DIR", "The folder for weights, checkpoints, logs and figures.")
@click.option("--steps", type=click.IntRange(min=1), help="Ends each training after N steps.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="How many students to train.")
@click.option("--compare", is_flag=True, help="Also trains each student on the labels alone.")
@click.option("--resume", is_flag=True, help="Goes on from the checkpoints in DIR, exactly.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or mps.")
@many_option
@nodes_option
@click.option(
    "--strategy",
    type=click.Choice(["auto", "ddp", "fsdp2"]),
    default="auto",
    show_default=True,
    help="How processes share the training: ddp keeps all of it in each, fsdp2 shards the student "
    "and its optimiser; auto is ddp.",
)
@book_option
@compilation
@format_option
def command(
    spec: str,
    out: Path,
    book: str | None,
    steps: int | None,
    seeds: int,
    compare: bool,
    resume: bool,
    device: str,
    devices: int | None,
    nodes: int | None,
    strategy: str,
    how: Mapping[str, Any],
    form: str,
) -> None:
    r"""Trains a spec by its `data` and `train` blocks, and prints what came out.

    A teacher without weights is trained first where `train.teacher` says so. The student's
    weights are in DIR/student.safetensors and load into the plain model. DIR/report.html shows
    curves, gradients, confusion and graph; it is brought up to date after each epoch.

    Several processes train together with --devices, or under torchrun, on several machines too.
    `data.batch_size` stays the size of the whole batch, of which each takes its part, so that the
    figures are those of one process up to rounding. DIR has to be a folder that all of them see.

    \b
    Examples:
      kdgraph train kd.yaml -o runs/kd
      kdgraph train kd.yaml -o runs/kd --resume
      kdgraph train kd.yaml -o runs/kd --compare --seeds 5
      kdgraph train kd.yaml -o runs/kd --book books/kd
      kdgraph train kd.yaml -o runs/try --steps 20 --set train.optimizer.lr=0.01
      kdgraph train kd.yaml -o runs/kd --devices 4
      torchrun --nproc-per-node 4 -m kdgraph train kd.yaml -o runs/kd --strategy fsdp2
    """
    start_others(devices, nodes)
    from rich.console import Console

    from kdgraph.train import run
    from kdgraph.train.launch import one_voice

    with one_voice():
        result = run(
            spec,
            out=out,
            steps=steps,
            seeds=seeds,
            compare=compare,
            resume=resume,
            device=device,
            book=book,
            strategy="fsdp2" if strategy == "fsdp2" else "ddp",
            console=Console(stderr=True),
            **how,
        )
    if not speaks():
        return
    if form == "json":
        print_json(result.as_dict())
    else:
        Console().print(result)
