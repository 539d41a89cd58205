"""The file against the trained student: both run on the same inputs, twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdgraph.errors import ExportError
from kdgraph.exporter._inputs import copied, make_inputs, run, unlike
from kdgraph.exporter._outputs import by_name, plain
from kdgraph.exporter._words import root_cause
from kdgraph.exporter.base import Format, Run, Sizes, Student


@dataclass(frozen=True)
class Trial:
    """One run of the trained student."""

    sizes: Mapping[str, int]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class Comparison:
    """How near a file is to the trained student.

    Attributes:
        sizes: which the file takes.
        trials: what both were run on.
        absolute: the largest difference.
        relative: the largest difference as a share of the largest absolute value of its output.
        notes: on how the file is loaded.
    """

    sizes: Sizes
    trials: Sequence[Trial]
    absolute: float
    relative: float
    notes: Sequence[str]


def compare(student: Student, form: Format, path: Path, sizes: Sizes) -> Comparison:
    """Reads a file back, and runs it and the trained student on the same inputs.

    Raises:
        ExportError: KD782 where the file cannot be read or run, or gives something else; KD783
            where the student gives nothing to compare with.
    """
    read, notes = form.read(path, student)
    trials = _trials(student, sizes)
    gaps = [gap for trial in trials for gap in _gaps(student, form, read, trial)]
    worst = max(gaps, key=lambda gap: gap[1])
    if not worst[1] <= form.tolerance:
        allowed = f"and {form.tolerance:g} is allowed"
        raise _other(student, f"{worst[2]} differs by {worst[1]:.1e} of its size, {allowed}")
    return Comparison(sizes, trials, max(gap[0] for gap in gaps), worst[1], notes)


def _trials(student: Student, sizes: Sizes) -> list[Trial]:
    """Batches of two sizes, or one where nothing is free.

    Other sizes are those of the export, and half or twice as much. A student that takes no single
    row, or not those sizes, is given others.
    """
    first = _first(student, sizes, [(1, 1), (2, 1)])
    if not any(torch.isfinite(value).any() for value in first.outputs.values()):
        raise unlike(student, "gives no finite number on ordinary inputs")
    second = _first(student, sizes, [(5, 0.5), (5, 2), (5, 1), (2, 1)])
    return [first, second] if second.sizes != first.sizes else [first]


def _first(student: Student, sizes: Sizes, wanted: Sequence[tuple[int, float]]) -> Trial:
    """The first trial that the student takes, of those with so many rows, and sizes times that."""
    last: Exception | None = None
    for rows, factor in wanted:
        try:
            return _trial(student, sizes, rows, factor)
        except Exception as error:  # the model's own code may raise anything
            last = error
    assert last is not None
    raise unlike(student, f"cannot be run: {root_cause(last)}") from last


def _trial(student: Student, sizes: Sizes, rows: int, factor: float) -> Trial:
    wanted = {
        letter: rows if letter in student.batch_letters else int(factor * size)
        for letter, size in student.sizes.items()
    }
    found = {letter: sizes.nearest(letter, size) for letter, size in wanted.items()}
    inputs = make_inputs(student, found)
    return Trial(found, inputs, by_name(plain(run(student, student.trained, inputs))))


def _gaps(
    student: Student, form: Format, read: Run, trial: Trial
) -> Iterator[tuple[float, float, str]]:
    """The largest difference in each output: as it is, as a share, and the name."""
    try:
        with torch.no_grad():
            outputs = by_name(plain(read(copied(trial.inputs))))
    except Exception as error:  # a library's, about what it has just read
        shown = ", ".join(f"{letter}={size}" for letter, size in trial.sizes.items())
        message = f"{form.reader} cannot run it at {shown}: {root_cause(error)}"
        help = "a size is fixed by --set batch.ENTRY.shape=[...]"
        raise _other(student, message, help) from error
    if [*outputs] != [*trial.outputs]:
        raise _other(student, f"it gives {', '.join(outputs)}, not {', '.join(trial.outputs)}")
    for name, value in outputs.items():
        if value.shape != trial.outputs[name].shape:
            shapes = f"{list(value.shape)}, not {list(trial.outputs[name].shape)}"
            raise _other(student, f"{name} has the shape {shapes}")
        yield (*_gap(value.double(), trial.outputs[name].double()), name)


def _gap(got: Tensor, wanted: Tensor) -> tuple[float, float]:
    """Of numbers that are finite; others have to be the same."""
    finite = torch.isfinite(wanted)
    if not got[~finite].isclose(wanted[~finite], equal_nan=True).all():
        return float("inf"), float("inf")
    if not finite.any():
        return 0.0, 0.0
    gap = (got - wanted)[finite].abs().max().nan_to_num(float("inf")).item()
    scale = wanted[finite].abs().max().item()
    return gap, gap / scale if scale else gap


def _other(student: Student, message: str, help: str | None = None) -> ExportError:
    return ExportError.of(
        "KD782",
        f"what was written is not the student: {message}",
        span=student.spec.span("models", student.name),
        help=help,
    )
