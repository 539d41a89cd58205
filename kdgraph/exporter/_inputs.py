"""Inputs that a student could be given in earnest, and what a first run on some tells of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdgraph.capture.record import call_module
from kdgraph.errors import ExportError
from kdgraph.exporter._outputs import by_name, plain
from kdgraph.exporter._words import root_cause
from kdgraph.exporter.base import Student
from kdgraph.graph.example import letter_sizes

# How many times the example sizes of a spec are tried, the largest first. On the smallest maps a
# convolutional network comes down to one position, and its operators then hold for small maps only.
_FACTORS = (8, 2, 1)
_LARGEST = 2_000_000  # numbers in an input, beyond which a factor is not tried
_ROWS = 2


def probe(student: Student) -> Student:
    """Runs the trained student, and notes sizes that it takes, its vocabularies and its outputs.

    What of it is saved stays as it was; what its code keeps for later runs (a table of
    positions) is there from now on, so that a program need not follow how it is made.

    Raises:
        ExportError: KD783 where it cannot be run, or gives no tensor.
    """
    known = letter_sizes(student.spec)
    last: Exception | None = None
    for factor in _FACTORS:
        sizes = {s: known[s] * (s in student.batch_letters or factor) for s in student.letters}
        inputs = make_inputs(student, {**sizes, **dict.fromkeys(student.batch_letters, _ROWS)})
        if factor > 1 and any(math.prod(value.shape) > _LARGEST for value in inputs.values()):
            continue
        try:
            with _saved(student.trained), _watched(student, inputs) as vocabularies:
                outputs = tuple(by_name(plain(run(student, student.trained, inputs))))
        except Exception as error:  # the model's own code may raise anything
            last = error
            continue
        if outputs:
            return replace(student, sizes=sizes, vocabularies=vocabularies, outputs=outputs)
        raise unlike(student, "gives no tensor")
    assert last is not None
    raise unlike(student, f"cannot be run: {root_cause(last)}") from last


def make_inputs(student: Student, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Values for the arguments of forward, the same each time.

    Floats are normal numbers. Integers are labels where the entry has ``classes``, and tokens where
    they are looked up; others, and truth values, are masks of rows of several lengths, and a
    number for each row is 1.

    Args:
        student: whose arguments.
        sizes: of letters.
    """
    chance = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for argument, name in student.entries.items():
        entry = student.spec.batch[name]
        shape = [sizes[s] if isinstance(s, str) else s for s in entry.shape]
        dtype: torch.dtype = getattr(torch, entry.dtype)
        count = entry.classes or student.vocabularies.get(argument)
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


@contextmanager
def _watched(student: Student, inputs: Mapping[str, Tensor]) -> Iterator[dict[str, int]]:
    """While the student runs: the arguments that go into an embedding, and its number of rows."""
    whole = {name: value for name, value in inputs.items() if not value.is_floating_point()}
    found: dict[str, int] = {}

    def see(module: nn.Module, args: tuple[object, ...]) -> None:
        for name, value in whole.items():
            if isinstance(module, nn.Embedding) and args and _same(args[0], value):
                found[name] = min(module.num_embeddings, found.get(name, module.num_embeddings))

    tables = [m for m in student.trained.modules() if isinstance(m, nn.Embedding)]
    handles = [table.register_forward_pre_hook(see) for table in tables]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _same(one: object, other: Tensor) -> bool:
    """Whether they hold the same integers, in whatever type and shape."""
    return (
        isinstance(one, Tensor)
        and one.numel() == other.numel()
        and torch.equal(one.flatten().long(), other.flatten().long())
    )


@contextmanager
def _saved(module: nn.Module) -> Iterator[None]:
    """Gives the buffers that are saved the values back that they had: code may count its runs."""
    before = [
        (part, name, value, value.clone())
        for part in module.modules()
        for name, value in part._buffers.items()
        if value is not None and name not in part._non_persistent_buffers_set
    ]
    try:
        yield
    finally:
        for part, name, value, held in before:
            part._buffers[name] = value.copy_(held)


def run(student: Student, module: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    """What a module makes of the inputs of a student, as it comes; they stay as they are."""
    with torch.no_grad():
        result: object = call_module(module, copied(inputs), student.positional)
    return result


def copied(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs of one run, which a model's code may write to."""
    return {name: value.clone() for name, value in inputs.items()}


def unlike(student: Student, message: str) -> ExportError:
    """The error for a student of which nothing can be told by running it."""
    span = student.spec.span("models", student.name)
    return ExportError.of("KD783", f"model {student.name!r} {message}", span=span)
