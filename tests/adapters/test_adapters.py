"""What every registered adapter has to hold; a new one is picked up by its name."""

from __future__ import annotations

import inspect

import pytest
import torch

from kdgraph.adapters.base import Adapter
from kdgraph.spec.entry import ADAPTERS
from kdgraph.spec.shapes import Shape, ShapeMismatch

# Vectors, tokens, maps and channels-last maps, paired in the ways that occur.
PAIRS: list[tuple[Shape, Shape]] = [
    ((2, 6), (2, 6)),
    ((2, 6), (2, 9)),
    ((2, 9, 6), (2, 9, 8)),
    ((2, 9, 6), (2, 8)),
    ((2, 10, 6), (2, 8, 3, 3)),
    ((2, 9, 6), (2, 8, 3, 3)),
    ((2, 6, 3, 3), (2, 9, 8)),
    ((2, 6, 3, 3), (2, 8)),
    ((2, 6, 5, 4), (2, 8, 5, 4)),
    ((2, 6, 5, 4), (2, 6, 2, 3)),
    ((2, 6, 2, 3), (2, 8, 5, 4)),
    ((2, 3, 3, 12), (2, 3, 3, 16)),
    ((2, 3, 3, 12), (2, 8, 5, 4)),
    ((2, 6, 3, 3), (2, 3, 3, 16)),
]


def _entry(name: str) -> Adapter:
    """The adapter with its defaults; a required key takes the first of its ``examples``."""
    cls = ADAPTERS.get(name)
    required = {k: f.examples for k, f in cls.model_fields.items() if f.is_required()}
    assert all(required.values()), f"give the required keys of {name} Field(examples=[...])"
    entry = cls.model_validate({k: examples[0] for k, examples in required.items()})
    assert isinstance(entry, Adapter)
    return entry


def _accepts(entry: Adapter, student: Shape, teacher: Shape) -> bool:
    try:
        entry.shape(student, teacher)
    except ShapeMismatch:
        return False
    return True


def _pairs(entry: Adapter) -> list[tuple[Shape, Shape]]:
    pairs = [pair for pair in PAIRS if _accepts(entry, *pair)]
    assert pairs, f"no pair of PAIRS suits {entry.use}"
    return pairs


every_adapter = pytest.mark.parametrize("name", ADAPTERS.names())


@every_adapter
def test_shape_is_that_of_the_result(name: str) -> None:
    entry = _entry(name)
    for student, teacher in _pairs(entry):
        module = entry.build(student, teacher)
        for batch in (2, 5):  # the batch size is free
            shape = entry.shape((batch, *student[1:]), (batch, *teacher[1:]))
            assert tuple(module(torch.randn(batch, *student[1:])).shape) == shape


@every_adapter
def test_resolves_to_one_that_does_the_same(name: str) -> None:
    entry = _entry(name)
    for student, teacher in _pairs(entry):
        concrete = entry.resolve(student, teacher)
        assert concrete.use != "auto"
        assert concrete.resolve(student, teacher) == concrete
        assert concrete.shape(student, teacher) == entry.shape(student, teacher)
        assert concrete.use in concrete.describe() or concrete.use == "chain"


@every_adapter
def test_gradients_reach_the_student_and_every_parameter(name: str) -> None:
    entry = _entry(name)
    for student, teacher in _pairs(entry):
        module = entry.build(student, teacher)
        x = torch.randn(student, requires_grad=True)
        module(x).square().sum().backward()
        for tensor in (x, *module.parameters()):
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()
            assert tensor.grad.any()


@every_adapter
def test_state_dict_round_trip(name: str) -> None:
    entry = _entry(name)
    student, teacher = _pairs(entry)[-1]
    one, other = entry.build(student, teacher), entry.build(student, teacher)
    other.load_state_dict(one.state_dict(), strict=True)
    x = torch.randn(student)
    assert torch.equal(one(x), other(x))


@every_adapter
def test_same_seed_same_parameters(name: str) -> None:
    entry = _entry(name)
    student, teacher = _pairs(entry)[-1]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = entry.build(student, teacher)
        torch.manual_seed(0)
        other = entry.build(student, teacher)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@every_adapter
def test_keeps_the_precision_it_is_given(name: str) -> None:
    entry = _entry(name)
    for student, teacher in _pairs(entry):
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            module = entry.build(student, teacher).to(dtype)
            out = module(torch.randn(student).to(dtype))
            assert out.dtype == dtype
            assert out.isfinite().all()


@every_adapter
def test_takes_half_precision_under_autocast(name: str) -> None:
    entry = _entry(name)
    for student, teacher in _pairs(entry):
        module = entry.build(student, teacher)
        x = torch.randn(student, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            out = module(x.bfloat16())
        assert out.is_floating_point()
        out.float().sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == torch.float32


@every_adapter
def test_compiles_whole(name: str) -> None:
    entry = _entry(name)
    student, teacher = _pairs(entry)[-1]
    module = entry.build(student, teacher).eval()
    torch._dynamo.reset()
    x = torch.randn(student)
    assert torch.equal(torch.compile(module, fullgraph=True, backend="eager")(x), module(x))


@every_adapter
def test_says_what_it_does(name: str) -> None:
    doc = inspect.getdoc(ADAPTERS.get(name))
    assert doc
    assert doc.splitlines()[0].endswith(".")
