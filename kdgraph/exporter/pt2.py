"""``.pt2``: the student as operators, read by ``torch.export.load`` with no code of the model."""

from __future__ import annotations

from pathlib import Path

import torch

from kdgraph.capture.record import call_module
from kdgraph.capture.world import quiet
from kdgraph.errors import ExportError
from kdgraph.exporter._program import make_program
from kdgraph.exporter._words import root_cause
from kdgraph.exporter.base import Format, Run, Sizes, Student, register_format


@register_format
class PT2(Format):
    """An ``ExportedProgram``; the structure that actions left is in it."""

    suffix = ".pt2"
    tolerance = 1e-5
    reader = "torch.export.load"

    def write(self, student: Student, path: Path) -> Sizes:
        program = make_program(student)
        try:
            with quiet():
                torch.export.save(program.exported, path)
        except OSError:
            raise
        except Exception as error:  # what has no form in a file is the model's
            raise ExportError.of(
                "KD781",
                f"torch.export cannot save model {student.name!r}: {root_cause(error)}",
                span=student.spec.span("models", student.name),
            ) from error
        return program.sizes

    def read(self, path: Path, student: Student) -> tuple[Run, list[str]]:
        try:
            with quiet():
                module = torch.export.load(path).module()
        except Exception as error:  # a reader may raise anything
            raise ExportError.of(
                "KD782", f"{path.name} cannot be read back: {root_cause(error)}"
            ) from error
        return (lambda inputs: call_module(module, inputs, student.positional)), []
