"""``.onnx``: the student for onnxruntime and whatever else reads ONNX; no torch is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdgraph.capture.world import quiet
from kdgraph.errors import ExportError
from kdgraph.exporter._program import Program, make_program
from kdgraph.exporter._words import root_cause
from kdgraph.exporter.base import Format, Run, Sizes, Student, register_format

_RESULT = "kdgraph."  # no operator and no weight is named so
_LARGEST = 1_800_000_000  # bytes of weights within the file; protobuf ends at 2 GiB


@register_format
class ONNX(Format):
    """Made from the same program as ``.pt2``.

    Inputs have the names of forward's arguments, outputs the names of the tensors in the result,
    free sizes their letters. Weights that protobuf cannot hold stand beside it in ``FILE.data``.
    """

    suffix = ".onnx"
    tolerance = 1e-4
    reader = "onnxruntime"

    libraries = ("onnx", "onnxscript", "onnxruntime")

    def write(self, student: Student, path: Path) -> Sizes:
        program = make_program(student)
        if both := [name for name in program.names if name in student.outputs]:
            raise ExportError.of(
                "KD781",
                f"model {student.name!r} takes and gives {both[0]!r}, which is one name in ONNX",
                span=student.spec.span("models", student.name),
                help=".pt2 takes results of any name",
            )
        try:
            with quiet():
                converted: Any = torch.onnx.export(
                    program.exported,
                    dynamo=True,
                    input_names=list(program.names),
                    output_names=[f"{_RESULT}{i}" for i in range(len(student.outputs))],
                    dynamic_shapes=_letters(student, program),
                    verbose=False,
                )
                _name_results(converted.model.graph, student.outputs)
                weights = sum(t.nbytes for t in program.exported.state_dict.values())
                converted.save(path, external_data=weights > _LARGEST)
        except OSError:
            raise
        except Exception as error:  # an operator that ONNX has not, say
            raise ExportError.of(
                "KD781",
                f"model {student.name!r} cannot be put into ONNX: {root_cause(error)}",
                span=student.spec.span("models", student.name),
                help=".pt2 takes every operator of torch",
            ) from error
        return program.sizes

    def read(self, path: Path, student: Student) -> tuple[Run, list[str]]:
        import onnxruntime

        try:
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # a reader may raise anything
            raise ExportError.of(
                "KD782", f"{path.name} cannot be read back: {root_cause(error)}"
            ) from error
        names = [value.name for value in session.get_outputs()]
        wanted = {value.name for value in session.get_inputs()}

        def told(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            given = {name: value.numpy() for name, value in inputs.items() if name in wanted}
            found = session.run(names, given)
            return {n: torch.from_numpy(v) for n, v in zip(names, found, strict=True)}

        return told, []


def _name_results(graph: Any, names: Sequence[str]) -> None:
    """Names the results; what is named so within (a weight, ``mean``) gets another name."""
    made = [value for node in graph.all_nodes() for value in node.outputs]
    for value in (*made, *graph.initializers.values()):
        if value.name in names:
            value.name = f"{_RESULT}{value.name}"
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


def _letters(student: Student, program: Program) -> tuple[dict[int, str], ...]:
    """The letters of each input's free sizes, by dimension."""
    shapes = [student.spec.batch[student.entries[name]].shape for name in program.names]
    return tuple(
        {i: s for i, s in enumerate(shape) if isinstance(s, str) and s not in program.sizes.fixed}
        for shape in shapes
    )
