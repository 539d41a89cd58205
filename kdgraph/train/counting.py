"""A bar that counts samples, with how many a second and how long it still takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Rate(ProgressColumn):
    """``480/s``."""

    def render(self, task: Task) -> Text:
        """The speed of the last while."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.3g}/s")


@contextmanager
def counted(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar while the block runs; gives what is told of each batch.

    Nothing is shown where the console is no terminal.
    """
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console, transient=True, refresh_per_second=4, disable=not console.is_terminal,
    )  # fmt: skip
    with progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)
