"""Options of commands that several processes run together, and who of them prints."""

from __future__ import annotations

import os
import sys

import click

many_option = click.option(
    "--devices",
    type=click.IntRange(min=1),
    metavar="N",
    help="Starts N processes on this machine, one for each GPU, that work together.",
)
nodes_option = click.option(
    "--nodes",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many machines there are; each is to start this command by torchrun.",
)


def start_others(devices: int | None, nodes: int | None = None) -> None:
    """Starts the processes that are asked for, waits for them and ends this one.

    Does nothing in those that were started, or where there is to be only one.
    """
    if devices is None and nodes is None:
        return
    from kdgraph.train.launch import start, to_start

    processes = to_start(devices, nodes)
    if processes is not None:
        click.get_current_context().exit(start(processes, sys.argv[1:]))


def speaks() -> bool:
    """Whether this process prints what all have found; those that cannot meet each print."""
    return os.environ.get("RANK", "0") == "0" or "MASTER_ADDR" not in os.environ
