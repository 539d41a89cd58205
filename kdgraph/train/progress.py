"""How far training is, on a terminal; one line for each run anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kdgraph.train.learner import Learner
from kdgraph.train.result import Run


class Board:
    """Shows the runs of a whole command, one bar at a time."""

    def __init__(self, console: Console | None) -> None:
        self.console = console or Console(quiet=True)
        self._progress = Progress(
            TextColumn("{task.description:<24}"), BarColumn(),
            TextColumn("epoch {task.fields[epoch]} {task.fields[found]}"), TimeRemainingColumn(),
            console=self.console, transient=True, refresh_per_second=4,
            disable=not self.console.is_terminal,
        )  # fmt: skip

    @contextmanager
    def open(self) -> Iterator[None]:
        """Shows bars while the block runs."""
        with self._progress:
            yield

    def follow(self, name: str, total: int) -> Follower:
        """A bar for one run, as a Lightning callback."""
        task = self._progress.add_task(name, total=total, epoch="", found="")
        return Follower(self._progress, task)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False)

    def done(self, run: Run) -> None:
        """The line of a finished run."""
        figures = ", ".join(f"{name} {value:.4f}" for name, value in run.val.items())
        self.say(f"{run.name}, seed {run.seed}: {figures} (val), {run.seconds:.0f} s")


class Follower(Callback):
    """Moves the bar of one run."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Shows the place in training."""
        assert isinstance(pl_module, Learner)
        self.progress.update(
            self.task, completed=pl_module.iteration, epoch=pl_module.epoch,
            found=" ".join(f"{n} {v:.4f}" for n, v in pl_module.found.items()),
        )  # fmt: skip

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the bar away."""
        self.progress.remove_task(self.task)
