"""A student as operators alone: ``torch.export``, with every size free that can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx
from torch.export import Dim, ExportedProgram, ShapesCollection

from kdgraph.capture.twin import twin
from kdgraph.capture.world import quiet, untouched_random_state
from kdgraph.errors import ExportError
from kdgraph.exporter._inputs import make_inputs
from kdgraph.exporter._outputs import giving_plain
from kdgraph.exporter._words import root_cause
from kdgraph.exporter.base import Sizes, Student


@dataclass(frozen=True)
class Program:
    """An exported student.

    Attributes:
        exported: takes forward's arguments as the student does, and gives ``plain`` results.
        names: of its inputs, in their order.
        sizes: which it takes.
    """

    exported: ExportedProgram
    names: tuple[str, ...]
    sizes: Sizes


def make_program(student: Student) -> Program:
    """Exports a student; where it cannot leave the number of rows free, they become one.

    Raises:
        ExportError: KD781 where torch refuses.
    """
    found = _make(student, student.sizes)
    rows = [letter for letter in student.batch_letters if letter in found.sizes.fixed]
    return _make(student, {**student.sizes, **dict.fromkeys(rows, 1)}) if rows else found


def _make(student: Student, sizes: Mapping[str, int]) -> Program:
    inputs = make_inputs(student, sizes)
    # args come first, as they do in the call of the program
    names = sorted(inputs, key=lambda name: name not in student.positional)
    free = ShapesCollection()  # type: ignore[no-untyped-call]  # untyped there
    for name, value in inputs.items():
        if letters := _letters(student, name):
            free[value] = dict.fromkeys(letters, Dim.AUTO)
    module = twin(student.plain)  # shares its tensors alone: what it keeps here is none of theirs
    vars(module)["forward"] = giving_plain(module.forward)
    try:
        with quiet(), untouched_random_state(), torch.no_grad():
            exported = torch.export.export(
                module,
                tuple(inputs[name] for name in names if name in student.positional),
                {name: inputs[name] for name in names if name not in student.positional},
                dynamic_shapes=free,
                strict=False,
            )
    except Exception as error:  # whatever the model's code makes of what torch runs it on
        raise ExportError.of(
            "KD781",
            f"torch.export cannot follow model {student.name!r}: {root_cause(error)}",
            span=student.spec.span("models", student.name),
            help="a .safetensors file holds weights alone, for which no code is followed",
        ) from error
    _forget_this_machine(exported)
    return Program(exported, tuple(names), _sizes(student, exported, names, sizes))


def _letters(student: Student, argument: str) -> dict[int, str]:
    """The dimensions of an argument that have a letter."""
    shape = student.spec.batch[student.entries[argument]].shape
    return {i: size for i, size in enumerate(shape) if isinstance(size, str)}


def _sizes(
    student: Student, exported: ExportedProgram, names: list[str], used: Mapping[str, int]
) -> Sizes:
    """What became of the letters."""
    given = [n for n in exported.graph.nodes if n.op == "placeholder"]
    values = [n.meta["val"] for n in given if n.name in exported.graph_signature.user_inputs]
    fixed: dict[str, int] = {}
    least: dict[str, int] = {}
    most: dict[str, int] = {}
    for name, value in zip(names, values, strict=True):
        for place, letter in _letters(student, name).items():
            size = value.shape[place]
            if isinstance(size, int) or size.node.expr.is_number:
                fixed[letter] = used[letter]
                continue
            limits = exported.range_constraints.get(size.node.expr)
            if limits is not None and limits.lower.is_Integer and limits.lower > 2:
                least[letter] = max(int(limits.lower), least.get(letter, 0))
            if limits is not None and limits.upper.is_Integer:
                most[letter] = min(int(limits.upper), most.get(letter, int(limits.upper)))
    return Sizes(
        fixed,
        {letter: size for letter, size in least.items() if letter not in fixed},
        {letter: size for letter, size in most.items() if letter not in fixed},
    )


def _forget_this_machine(exported: ExportedProgram) -> None:
    """Drops the lines of code, with their paths, and the inputs, which would be in the file."""
    for module in exported.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    exported.example_inputs = None
