"""What every registered signal has to hold; a new one is picked up by its name."""

from __future__ import annotations

import inspect
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


def _inputs(entry: Signal, make: Any) -> dict[str, Any]:
    """One tensor, or one per member, for each reference that is set."""
    inputs: dict[str, Any] = {}
    for field in entry.ref_fields():
        value = getattr(entry, field)
        if value is not None:
            inputs[field] = make() if isinstance(value, str) else [make() for _ in value]
    return inputs


def _tensors(inputs: dict[str, Any]) -> list[Tensor]:
    return [t for v in inputs.values() for t in (v if isinstance(v, list) else [v])]


def _accepted(entry: Signal) -> list[Shape]:
    found = []
    for shape in SHAPES:
        try:
            entry.shape(**_inputs(entry, lambda shape=shape: shape))
        except ShapeMismatch:
            continue
        found.append(shape)
    assert found, f"no shape of SHAPES suits {entry.use}"
    return found


every_signal = pytest.mark.parametrize("name", SIGNALS.names())


@every_signal
def test_shape_is_that_of_the_result(name: str) -> None:
    entry = _entry(name)
    for shape in _accepted(entry):
        out = entry.module()(**_inputs(entry, lambda shape=shape: torch.randn(shape)))
        assert tuple(out.shape) == entry.shape(**_inputs(entry, lambda shape=shape: shape))


@every_signal
def test_module_and_forward_agree(name: str) -> None:
    entry = _entry(name)
    for shape in _accepted(entry):
        inputs = _inputs(entry, lambda shape=shape: torch.randn(shape))
        assert torch.equal(entry.forward(**inputs), entry.module()(**inputs))


@every_signal
def test_leaves_its_inputs_alone(name: str) -> None:
    entry = _entry(name)
    for shape in _accepted(entry):
        inputs = _inputs(entry, lambda shape=shape: torch.randn(shape))
        before = [t.clone() for t in _tensors(inputs)]
        entry.forward(**inputs)
        assert all(torch.equal(a, b) for a, b in zip(before, _tensors(inputs), strict=True))


@every_signal
def test_gradient_is_that_of_the_value(name: str) -> None:
    entry = _entry(name)

    def run(*values: Tensor) -> Tensor:
        left = iter(values)
        return entry.forward(**_inputs(entry, lambda: next(left)))

    for shape in _accepted(entry):
        count = len(_tensors(_inputs(entry, lambda: torch.empty(0))))
        tensors = [
            torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(count)
        ]
        if run(*tensors).requires_grad:
            assert torch.autograd.gradcheck(run, tensors)


@every_signal
@pytest.mark.parametrize(("dtype", "largest"), [(torch.float16, 65504.0), (torch.bfloat16, 1e37)])
def test_finite_on_extreme_half_precision(name: str, dtype: torch.dtype, largest: float) -> None:
    entry = _entry(name)
    for shape in _accepted(entry):
        for value in (0.0, 1.0, largest, -largest, torch.finfo(dtype).tiny):
            spread = torch.randint(-1, 2, shape).to(dtype) * value
            for x in (spread, torch.full(shape, value, dtype=dtype)):
                inputs = _inputs(entry, lambda x=x: x.clone().requires_grad_())
                out = entry.forward(**inputs)
                assert out.isfinite().all()
                if out.requires_grad:
                    out.sum().backward()
                    assert all(t.grad.isfinite().all() for t in _tensors(inputs))  # type: ignore[union-attr]


@every_signal
def test_has_no_state(name: str) -> None:
    module = _entry(name).module()
    assert not list(module.parameters())
    assert not module.state_dict()


@every_signal
def test_compiles_whole(name: str) -> None:
    entry = _entry(name)
    module = entry.module()
    shape = _accepted(entry)[-1]
    inputs = _inputs(entry, lambda: torch.randn(shape))
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    assert torch.equal(compiled(**inputs), module(**inputs))


@every_signal
def test_says_what_it_does(name: str) -> None:
    doc = inspect.getdoc(SIGNALS.get(name))
    assert doc
    assert doc.splitlines()[0].endswith(".")
