"""``export``: a file of the student, which appears only once it was read back and compared."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from kdgraph.errors import ExportError, ModelError, near
from kdgraph.exporter._check import Comparison, Trial, compare
from kdgraph.exporter._student import find_weights, take_student
from kdgraph.exporter.base import FORMATS, Format, Student
from kdgraph.spec.language import Spec
from kdgraph.spec.read import load_spec


@dataclass(frozen=True)
class Value:
    """An input or an output: its sizes, letters where they are free, and its type."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it is to the trained student.

    Attributes:
        path: the file.
        checkpoint: the one that it was made from; None of a module.
        format: its suffix.
        model: name of the student in the spec.
        source: where it comes from, if the spec says.
        parameters: how many numbers.
        bytes: of all files.
        inputs: by the names of forward's arguments.
        outputs: by the names of the tensors in the result.
        free: the letters of sizes that may be anything.
        least: the smallest that some of them may be.
        most: the largest.
        fixed: sizes that the spec leaves free and the file does not.
        checked: the sizes of each comparison.
        reader: what read the file.
        difference: the largest absolute one from what the trained student gives.
        relative: the same by the largest absolute value of that output.
        tolerance: what ``relative`` may be.
        notes: on how it is loaded.
    """

    path: Path
    checkpoint: Path | None
    format: str
    model: str
    source: str | None
    parameters: int
    bytes: int
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    free: tuple[str, ...]
    least: Mapping[str, int]
    most: Mapping[str, int]
    fixed: Mapping[str, int]
    checked: tuple[Mapping[str, int], ...]
    reader: str
    difference: float
    relative: float
    tolerance: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For ``--format json``."""
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        return {**asdict(self), "path": str(self.path), "checkpoint": checkpoint}


def export(
    spec: str | Path | Mapping[str, Any] | Spec,
    checkpoint: str | Path | nn.Module,
    out: str | Path,
    *,
    trust: Collection[str] = (),
    set: Sequence[str] = (),
) -> Exported:
    """Writes the trained student alone, to be used without kdgraph.

    What actions and ``lora`` put into it is folded first. The file is read back and run beside
    the trained student; one that differs by more than rounding is not left behind.

    Args:
        spec: a path, YAML text, a mapping of the same form, or a ``Spec``.
        checkpoint: a run's folder, its last.ckpt, a file of weights, a state dict of the compiled
            module; or that module, or the student itself, neither of which changes.
        out: ``.safetensors`` holds the weights for the plain model of the source, ``.pt2`` the
            operators for ``torch.export.load``, ``.onnx`` those for onnxruntime.
        trust: Python modules that ``python/`` sources may come from.
        set: overrides like ``batch.image.shape=[1, 3, 32, 32]``.

    Raises:
        ExportError: KD780 no such format; KD781 it cannot hold this student; KD782 what was written
            is something else; KD783 the student cannot be run; KD414 a library is missing.
        ModelError: KD409, KD410, KD415, KD416, of the student and the checkpoint.
    """
    path = Path(out)
    form = _form(path)
    checked = load_spec(spec, set=set) if not isinstance(spec, Spec) else spec
    found = checkpoint if isinstance(checkpoint, nn.Module) else find_weights(Path(checkpoint))
    student = take_student(checked, found, trust)
    with _whole(path) as part:
        comparison = compare(student, form, part, form.write(student, part))
        size = sum(file.stat().st_size for file in part.parent.iterdir())
    origin = None if isinstance(found, nn.Module) else found
    return _exported(path, origin, size, form, student, comparison)


def _form(path: Path) -> Format:
    if path.suffix not in FORMATS.names():
        known = ", ".join(FORMATS.names())
        message = f"{path}: students are written as {known}"
        raise ExportError.of("KD780", message, help=near(path.suffix, FORMATS.names()))
    if not path.parent.is_dir():
        message = f"{path} cannot be written: there is no folder {path.parent}"
        raise ModelError.of("KD415", message)
    form = FORMATS.get(path.suffix)
    for library in form.libraries:
        try:
            importlib.import_module(library)
        except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
            raise ExportError.of(
                "KD414",
                f"{form.suffix} files need {library}, which cannot be imported: {error}",
                help="pip install 'kdgraph[export]'",
            ) from error
    return form


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Where to write: what lies there in the end takes its place beside others, or nothing does."""
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield Path(folder) / path.name
        # the file itself comes last: it names the others
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.with_name(file.name))


def _exported(
    path: Path,
    checkpoint: Path | None,
    size: int,
    form: Format,
    student: Student,
    found: Comparison,
) -> Exported:
    sizes, batch = found.sizes, student.spec.batch
    shapes = {
        argument: [sizes.fixed.get(s, s) if isinstance(s, str) else s for s in batch[entry].shape]
        for argument, entry in student.entries.items()
    }
    return Exported(
        path=path, checkpoint=checkpoint, format=form.suffix, model=student.name,
        source=student.spec.models[student.name].source,
        parameters=sum(p.numel() for p in student.plain.parameters()), bytes=size,
        inputs=tuple(
            Value(name, tuple(shapes[name]), _dtype(value))
            for name, value in found.trials[0].inputs.items()
        ),
        outputs=tuple(_outputs(found.trials)),
        free=tuple(s for s in student.letters if s not in sizes.fixed),
        least=sizes.least, most=sizes.most, fixed=sizes.fixed,
        checked=tuple(trial.sizes for trial in found.trials), reader=form.reader,
        difference=found.absolute, relative=found.relative, tolerance=form.tolerance,
        notes=tuple(found.notes),
    )  # fmt: skip


def _outputs(trials: Sequence[Trial]) -> Iterator[Value]:
    """Outputs, with letters where a size goes along with one; ``?`` where it moves by another."""
    for name, value in trials[0].outputs.items():
        sizes = zip(*(trial.outputs[name].shape for trial in trials), strict=True)
        yield Value(name, tuple(_lettered(found, trials) for found in sizes), _dtype(value))


def _lettered(found: Sequence[int], trials: Sequence[Trial]) -> int | str:
    if len(set(found)) == 1:
        return found[0]
    letters = (s for s in trials[0].sizes if [t.sizes[s] for t in trials] == list(found))
    return next(letters, "?")


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
