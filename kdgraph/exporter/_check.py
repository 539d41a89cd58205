"""The file against the trained student: both run on the same inputs, twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdgraph.errors import ExportError
from kdgraph.exporter._inputs import make_inputs, run, unlike
from kdgraph.exporter._outputs import by_name, plain
from kdgraph.exporter._words import root_cause
from kdgraph.exporter.base import Format, Run, Sizes, Student

_ROWS = (1, 5)


@dataclass(frozen=True)
class Trial:
    """One run of the trained student."""

    sizes: Mapping[str, int]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class Difference:
    """The largest there was.

    Attributes:
        absolute: as it is.
        relative: by the largest absolute value of the same output.
        output: the one with the largest ``relative``.
    """

    absolute: float
    relative: float
    output: str


def make_trials(student: Student, sizes: Sizes) -> list[Trial]:
    """The trained student on batches of two sizes, or one where nothing is free.

    Other sizes are those of the export, and half or twice as much where the student takes that.

    Raises:
        ExportError: KD783 where the student gives nothing that is finite.
    """
    trials = [_trial(student, sizes, _ROWS[0], 1)]
    if not any(torch.isfinite(value).any() for value in trials[0].outputs.values()):
        raise unlike(student, "gives no finite number on ordinary inputs")
    for factor in (0.5, 2, 1):
        try:
            second = _trial(student, sizes, _ROWS[1], factor)
        except Exception:  # it does not take such sizes, and need not
            continue
        return [*trials, second] if second.sizes != trials[0].sizes else trials
    return trials


def _trial(student: Student, sizes: Sizes, rows: int, factor: float) -> Trial:
    wanted = {s: rows if s in student.batch_letters else int(factor * size)
              for s, size in student.sizes.items()}  # fmt: skip
    found = {letter: sizes.nearest(letter, size) for letter, size in wanted.items()}
    inputs = make_inputs(student, found)
    return Trial(found, inputs, by_name(plain(run(student, student.trained, inputs))))


def largest_difference(
    student: Student, form: Format, read: Run, trials: list[Trial]
) -> Difference:
    """Runs what was read back on each trial.

    Raises:
        ExportError: KD782 where it cannot be run, or gives something else.
    """
    found = [Difference(0.0, 0.0, next(iter(trials[0].outputs)))]
    for trial in trials:
        shown = ", ".join(f"{letter}={size}" for letter, size in trial.sizes.items())
        try:
            with torch.no_grad():
                outputs = by_name(plain(read(trial.inputs)))
        except Exception as error:  # a library's, about what it has just read
            raise _other(
                student, f"with {form.reader} it does not run at {shown}: {root_cause(error)}"
            ) from error
        if [*outputs] != [*trial.outputs]:
            raise _other(student, f"it gives {', '.join(outputs)}, not {', '.join(trial.outputs)}")
        found += _differences(student, outputs, trial.outputs)
    worst = max(found, key=lambda one: one.relative)
    return Difference(max(one.absolute for one in found), worst.relative, worst.output)


def _differences(
    student: Student, outputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> Iterator[Difference]:
    for name, value in outputs.items():
        if value.shape != wanted[name].shape:
            shapes = f"{list(value.shape)}, not {list(wanted[name].shape)}"
            raise _other(student, f"{name} has the shape {shapes}")
        got, want = value.double(), wanted[name].double()
        finite = torch.isfinite(want)
        if not torch.equal(finite, torch.isfinite(got)):
            yield Difference(float("inf"), float("inf"), name)
        elif finite.any():
            gap = (got - want)[finite].abs().max().item()
            scale = want[finite].abs().max().item()
            yield Difference(gap, gap / scale if scale else gap, name)


def _other(student: Student, message: str) -> ExportError:
    help = "a size that the file cannot leave free is fixed by --set batch.ENTRY.shape=[...]"
    return ExportError.of(
        "KD782",
        f"the file is not the student: {message}",
        span=student.spec.span("models", student.name),
        help=help,
    )
