"""What a training run found, to print and to keep."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class Run:
    """One training of one model.

    Attributes:
        name: ``distilled``, ``alone``, or the name of a teacher.
        seed: of initial values, data order, augmentation and dropout.
        part: which part of the data the metrics are of, ``test`` or ``val``.
        metrics: the final figures.
        val: the figures on the validation data after the last epoch.
        epochs: completed epochs.
        steps: steps of the optimiser.
        finished: false where a limit of steps ended the run early.
        parameters: number of parameters of the model that was scored.
        seconds: time the training took, all sittings together.
        weights: the file with the model's weights.
        latency: median milliseconds of the model that was scored for a batch of one; None in
            records that are older than this figure.
        device: where that was measured.
        actions: what the actions of stages said that they changed, in order: stage, place, epoch
            of the stage, lines.
    """

    name: str
    seed: int
    part: str
    metrics: dict[str, float]
    val: dict[str, float]
    epochs: int
    steps: int
    finished: bool
    parameters: int
    seconds: float
    weights: str | None
    latency: float | None = None
    device: str | None = None
    actions: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation over seeds; the latter is None for a single value."""

    mean: float
    std: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """The summary of some values."""
        std = None
        if len(values) > 1:  # of what is no number, `stdev` makes an error
            std = statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
        return cls(statistics.fmean(values), std, len(values))

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return None if self.std is None else self.std / math.sqrt(self.count)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.std is None else f" ± {self.std:.4f}")


@dataclass(frozen=True)
class Result:
    """Everything a call of ``run`` trained; prints as a table.

    Attributes:
        spec: name of the spec.
        data: the data set, the sizes of its parts, and how they were made.
        out: the folder with weights, checkpoints and logs.
        runs: the distilled students, one a seed.
        alone: the students without a teacher, of the same seeds; empty if not asked for.
        teachers: the teachers, trained here or as they came.
    """

    spec: str
    data: str
    out: str
    runs: list[Run]
    alone: list[Run] = field(default_factory=list)
    teachers: list[Run] = field(default_factory=list)

    def summary(self, runs: Sequence[Run]) -> dict[str, Summary]:
        """Each metric over the seeds."""
        return {m: Summary.of([r.metrics[m] for r in runs]) for m in runs[0].metrics}

    def difference(self) -> dict[str, Summary]:
        """Distilled minus alone, seed by seed; empty if not compared."""
        if not self.alone:
            return {}
        pairs = list(zip(self.runs, self.alone, strict=True))
        names = self.runs[0].metrics
        return {m: Summary.of([d.metrics[m] - a.metrics[m] for d, a in pairs]) for m in names}

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        summaries = {"distilled": self.summary(self.runs)}
        if self.alone:
            summaries |= {"alone": self.summary(self.alone), "difference": self.difference()}
        return {
            "spec": self.spec,
            "data": self.data,
            "out": self.out,
            "summary": {
                name: {m: {**asdict(s), "standard_error": s.error} for m, s in found.items()}
                for name, found in summaries.items()
            },
            "runs": [asdict(r) for r in [*self.teachers, *self.alone, *self.runs]],
        }

    def to_json(self) -> str:
        """``as_dict`` as text."""
        return json.dumps(self.as_dict(), indent=1)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, color_system=None)
        with console.capture() as shown:
            console.print(self)
        return shown.get().rstrip()

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.spec)
        table.add_column("")
        for metric in self.runs[0].metrics:
            table.add_column(metric, justify="right")
        for column in ("parameters", "ms", "steps", "seconds"):
            table.add_column(column, justify="right")
        for teacher in self.teachers:
            table.add_row(*self._row(teacher.name, [teacher]))
        if self.alone:
            table.add_row(*self._row("student alone", self.alone))
        table.add_row(*self._row("distilled", self.runs))
        return Group(table, *(Text(line, style="dim") for line in self.notes()))

    def _row(self, name: str, runs: Sequence[Run]) -> list[str]:
        figures = [str(s) for s in self.summary(runs).values()]
        seconds = statistics.fmean(r.seconds for r in runs)
        steps = f"{runs[0].steps:,}" if runs[0].steps else "-"
        times = [r.latency for r in runs if r.latency is not None]
        latency = f"{statistics.median(times):.2f}" if times else "-"
        return [name, *figures, f"{runs[0].parameters:,}", latency, steps, f"{seconds:.0f}"]

    def notes(self) -> list[str]:
        """What a reader must know to judge the table, a line each."""
        seeds = len(self.runs)
        lines = [self.data]
        if self.runs[0].part == "val":
            lines.append("there is no test part: the figures are of the validation data")
        lines += [
            f"distilled minus alone, {m}: {d.mean:+.4f}"
            + (f", standard error {d.error:.4f} ({seeds} seeds, paired)" if d.error is not None
               else " (one seed: no standard error)")
            for m, d in self.difference().items()
        ]  # fmt: skip
        if seeds > 1:
            lines.append(f"± is the standard deviation over {seeds} seeds")
        if self.runs[0].latency is not None:
            lines.append(f"ms: median time of one sample, in a batch of one, {self.runs[0].device}")
        if any(not r.finished for r in [*self.teachers, *self.alone, *self.runs]):
            lines.append("ended early by the limit of steps")
        return lines
