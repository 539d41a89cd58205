"""The part of a report that is of one run: brought up to date after each epoch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from kdgraph.train.checkpoint import progress
from kdgraph.train.learner import Learner
from kdgraph.train.ranks import writes
from kdgraph.train.report.confusion import Confusion, picture
from kdgraph.train.report.record import Record
from kdgraph.train.report.report import Report
from kdgraph.train.result import Run


class Follow(Callback):
    """Tells a report of one run; comes behind the callback that saves it.

    Args:
        report: of all runs; None where nobody wants one.
        name: what the run is called.
        learner: what trains.
        limit: steps of the optimiser that there are to be.
    """

    def __init__(self, report: Report | None, name: str, learner: Learner, limit: int) -> None:
        self.report = report
        self.name, self.learner, self.limit = name, learner, limit

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the report; also called where a limit of steps ends the run within an epoch."""
        self.tell("training")

    def tell(self, state: str, **more: Any) -> None:
        """Writes the report with what is known by now.

        Args:
            state: ``training``, ``finished`` or ``ended early``.
            more: what is known at the end alone.
        """
        if self.report is None:
            return
        learner = self.learner
        figures = {
            "state": state,
            "epochs": learner.course.passed + learner.epoch,
            "steps": learner.iteration,
            "of_steps": self.limit,
            "actions": learner.watch.actions(),
            **learner.watch.as_dict(),
            **more,
        }
        self.report.computes_on(str(learner.device))
        self.report.put(self.name, learner.seed, figures)
        self.report.write()

    def end(self, run: Run, confusion: Confusion, folder: Path) -> None:
        """Tells of the end, with the final figures; the confusion goes to TensorBoard as well."""
        from torch.utils.tensorboard import SummaryWriter

        counts = confusion.matrix()  # which all processes count together
        if counts is not None and writes():
            with SummaryWriter(str(folder / "tensorboard" / "final")) as writer:
                writer.add_image(f"confusion/{run.part}", picture(counts), run.steps)
        state = "finished" if run.finished else "ended early"
        self.tell(state, result=asdict(run), confusion=confusion.as_dict(run.part))


def recall(report: Report | None, run: Run, checkpoint: Path) -> None:
    """Tells a report of a run that an earlier command has finished, by its checkpoint."""
    if report is None:
        return
    record = Record()
    try:
        state = progress(checkpoint)
        record.take_up(state["watch"]["record"])
    except (OSError, KeyError, RuntimeError):  # it was moved away, or is of an older version
        record.note("curves: the checkpoint of this earlier training is gone or cannot be read")
    figures = {
        "state": "trained before", "epochs": run.epochs, "steps": run.steps, "of_steps": run.steps,
        "actions": [], **record.as_dict(), "result": asdict(run),
    }  # fmt: skip
    report.put(run.name, run.seed, figures)
