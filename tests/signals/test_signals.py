"""What every registered signal has to hold; a new one is picked up by its name.

Every reference is fed normal numbers of one shape: vectors, tokens, maps, whichever the signal
takes. Where that does not suit it, its own test file ``test_<use>.py`` says what does:

    SHAPES = [(4,), (4, 3, 3)]              # shapes to try; default: SHAPES below

    def inputs(shape):                      # tensors by reference, lists of them for ``Refs``
        return {"labels": torch.randint(0, 10, shape)}
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import SIGNALS
from kdgraph.spec.shapes import Shape, ShapeMismatch

SHAPES: list[Shape] = [(4, 6), (4, 9, 6), (4, 6, 3, 3)]  # vectors, tokens, maps


def _entry(name: str) -> Signal:
    """The signal with its defaults, two members for lists; other keys take their ``examples``."""
    cls = SIGNALS.get(name)
    keys: dict[str, Any] = {}
    for key, field in cls.model_fields.items():
        if field.is_required() and key in cls.ref_fields():
            keys[key] = "model.tap" if field.annotation is str else ["one.tap", "two.tap"]
        elif field.is_required():
            assert field.examples, f"give {key!r} of {name} Field(examples=[...])"
            keys[key] = field.examples[0]
    entry = cls.model_validate(keys)
    assert isinstance(entry, Signal)
    return entry


@cache
def _helper(name: str) -> ModuleType:
    """The module ``test_<use>.py`` beside this file."""
    path = Path(__file__).with_name(f"test_{name}.py")
    assert path.exists(), f"signal {name!r} needs a test file, {path.name}"
    spec = importlib.util.spec_from_file_location(f"example_of_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _inputs(entry: Signal, shape: Shape) -> dict[str, Any]:
    """A tensor, or one per member, for each reference that is set."""
    if hasattr(_helper(entry.use), "inputs"):
        made: dict[str, Any] = _helper(entry.use).inputs(shape)
        return made
    set_ = {field: getattr(entry, field) for field in entry.ref_fields()}
    return {
        field: torch.randn(shape) if isinstance(value, str) else [torch.randn(shape) for _ in value]
        for field, value in set_.items()
        if value is not None
    }


def _each(inputs: dict[str, Any], change: Callable[[Tensor], Any]) -> dict[str, Any]:
    """The same inputs with every tensor changed."""
    return {
        field: [change(t) for t in value] if isinstance(value, list) else change(value)
        for field, value in inputs.items()
    }


def _tensors(inputs: dict[str, Any]) -> list[Tensor]:
    return [t for v in inputs.values() for t in (v if isinstance(v, list) else [v])]


def _shape(entry: Signal, inputs: dict[str, Any]) -> Shape:
    return entry.shape(**_each(inputs, lambda t: tuple(t.shape)))


def _steered(entry: Signal) -> dict[str, float]:
    """The constants that stand where a schedule may."""
    values = {field: getattr(entry, field) for field in entry.steer_fields()}
    return {field: value for field, value in values.items() if value is not None}


def _run(entry: Signal, inputs: dict[str, Any]) -> Tensor:
    return entry.forward(**inputs, **_steered(entry))


def _accepted(entry: Signal) -> list[dict[str, Any]]:
    """Inputs of every shape that suits the signal."""
    found = []
    for shape in getattr(_helper(entry.use), "SHAPES", SHAPES):
        inputs = _inputs(entry, shape)
        try:
            _shape(entry, inputs)
        except ShapeMismatch:
            continue
        found.append(inputs)
    assert found, f"no shape suits {entry.use}: its test file can give SHAPES and inputs(shape)"
    return found


every_signal = pytest.mark.parametrize("name", SIGNALS.names())


@every_signal
def test_shape_is_that_of_the_result(name: str) -> None:
    entry = _entry(name)
    for inputs in _accepted(entry):
        out = entry.module()(**inputs, **_steered(entry))
        assert tuple(out.shape) == _shape(entry, inputs)


@every_signal
def test_module_and_forward_agree(name: str) -> None:
    entry = _entry(name)
    for inputs in _accepted(entry):
        assert torch.equal(_run(entry, inputs), entry.module()(**inputs, **_steered(entry)))


@every_signal
def test_leaves_its_inputs_alone(name: str) -> None:
    entry = _entry(name)
    for inputs in _accepted(entry):
        before = [t.clone() for t in _tensors(inputs)]
        _run(entry, inputs)
        assert all(torch.equal(a, b) for a, b in zip(before, _tensors(inputs), strict=True))


@every_signal
def test_gradient_is_that_of_the_value(name: str) -> None:
    entry = _entry(name)
    for inputs in _accepted(entry):
        exact = _each(inputs, lambda t: t.double() if t.is_floating_point() else t)
        floats = [t for t in _tensors(exact) if t.is_floating_point()]

        def run(*values: Tensor, exact: dict[str, Any] = exact) -> Tensor:
            left = iter(values)
            filled = _each(exact, lambda x: next(left) if x.is_floating_point() else x)
            return _run(entry, filled)

        if run(*(t.requires_grad_() for t in floats)).requires_grad:
            assert torch.autograd.gradcheck(run, floats)


@every_signal
@pytest.mark.parametrize(("dtype", "largest"), [(torch.float16, 65504.0), (torch.bfloat16, 1e37)])
def test_finite_on_extreme_half_precision(name: str, dtype: torch.dtype, largest: float) -> None:
    entry = _entry(name)

    def check(inputs: dict[str, Any], value: float, *, mixed: bool) -> None:
        """Runs on nothing but ``value``, or on it, 0 and its negative; indices stay."""

        def fill(t: Tensor) -> Tensor:
            if not t.is_floating_point():
                return t
            return (torch.randint(-1, 2, t.shape) if mixed else torch.ones(t.shape)).to(
                dtype
            ) * value

        changed = _each(inputs, fill)
        leaves = [t.requires_grad_() for t in _tensors(changed) if t.is_floating_point()]
        out = _run(entry, changed)
        assert out.isfinite().all()
        if out.requires_grad:
            out.sum().backward()
            assert all(t.grad.isfinite().all() for t in leaves)  # type: ignore[union-attr]

    for inputs in _accepted(entry):
        for value in (0.0, 1.0, largest, -largest, torch.finfo(dtype).tiny):
            check(inputs, value, mixed=True)
            check(inputs, value, mixed=False)


@every_signal
def test_has_no_state(name: str) -> None:
    module = _entry(name).module()
    assert not list(module.parameters())
    assert not module.state_dict()


@every_signal
def test_compiles_whole(name: str) -> None:
    entry = _entry(name)
    module = entry.module()
    inputs = _accepted(entry)[-1] | _steered(entry)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    assert torch.equal(compiled(**inputs), module(**inputs))


@every_signal
def test_says_what_it_does(name: str) -> None:
    doc = inspect.getdoc(SIGNALS.get(name))
    assert doc
    assert doc.splitlines()[0].endswith(".")


@every_signal
def test_a_row_depends_on_other_rows_only_where_the_signal_says_so(name: str) -> None:
    entry = _entry(name)
    for inputs in _accepted(entry):
        whole = _run(entry, inputs)
        if not _tensors(inputs) or whole.dim() == 0:
            continue
        part = _run(entry, _each(inputs, lambda t: t[:2] if t.dim() else t))
        if entry.by_row():
            torch.testing.assert_close(part, whole[:2])
        else:
            assert not torch.allclose(part, whole[:2])
