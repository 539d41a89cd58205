"""Inputs that a student could be given in earnest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdgraph.capture.record import call_module
from kdgraph.exporter.base import Student
from kdgraph.graph.example import letter_sizes

Vocabularies = Mapping[str, int]


def sizes_of_export(student: Student) -> dict[str, int]:
    """The size of each letter with which shapes are followed."""
    known = letter_sizes(student.spec)
    return {letter: known[letter] for letter in student.letters}


def make_inputs(
    student: Student, sizes: Mapping[str, int], vocabularies: Vocabularies | None = None
) -> dict[str, Tensor]:
    """Values for the arguments of forward, the same each time.

    Floats are normal numbers. Integers are labels where the entry has ``classes``, and tokens where
    they are looked up; others, and truth values, are masks of rows of several lengths, and a
    number for each row is 1.

    Args:
        student: whose arguments.
        sizes: of letters.
        vocabularies: of the arguments that are looked up, how many entries the table has.
    """
    chance = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for argument, name in student.entries.items():
        entry = student.spec.batch[name]
        shape = [sizes[s] if isinstance(s, str) else s for s in entry.shape]
        dtype: torch.dtype = getattr(torch, entry.dtype)
        count = entry.classes or (vocabularies or {}).get(argument)
        if dtype.is_floating_point:
            found[argument] = torch.randn(shape, generator=chance)
        elif count is not None and dtype is not torch.bool:
            found[argument] = torch.randint(0, count, shape, generator=chance).to(dtype)
        else:
            found[argument] = _mask(shape, chance).to(dtype)
    return found


def _mask(shape: list[int], chance: torch.Generator) -> Tensor:
    """1 up to some length of each row, at least at its first place, and 0 behind."""
    if len(shape) < 2:
        return torch.ones(shape)
    length = shape[-1]
    lengths = torch.randint(1, max(length, 2), [*shape[:-1], 1], generator=chance)
    return torch.arange(length).expand(shape) < lengths


def find_vocabularies(student: Student) -> dict[str, int]:
    """The arguments that go into an embedding as they are, and how many rows the smallest has."""
    inputs = make_inputs(student, sizes_of_export(student))
    whole = {name: value for name, value in inputs.items() if not value.is_floating_point()}
    found: dict[str, int] = {}

    def see(module: nn.Module, args: tuple[object, ...]) -> None:
        for name, value in whole.items():
            if args and isinstance(args[0], Tensor) and _same(args[0], value):
                rows = int(getattr(module, "num_embeddings"))  # noqa: B009  # of nn.Embedding alone
                found[name] = min(rows, found.get(name, rows))

    tables = [m for m in student.trained.modules() if isinstance(m, nn.Embedding)]
    handles = [table.register_forward_pre_hook(see) for table in tables]
    try:
        if tables:
            run(student, student.trained, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether they hold the same integers, in whatever type and shape."""
    return one.numel() == other.numel() and torch.equal(
        one.flatten().long(), other.flatten().long()
    )


def run(student: Student, module: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    """What a module makes of the inputs of a student, as it comes."""
    with torch.no_grad():
        result: object = call_module(module, inputs, student.positional)
    return result
