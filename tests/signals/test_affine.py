from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from kdgraph.signals.affine import Affine


def _of(**keys: object) -> Affine:
    return Affine.model_validate({"of": "some.tap", **keys})


def test_known_values() -> None:
    x = torch.tensor([[0.25, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    entry = _of(scale=-2.0, shift=1.0)
    want = torch.tensor([[0.5, -3.0], [3.0, 0.0]], dtype=torch.float64)
    assert torch.equal(entry.forward(of=x, scale=-2.0, shift=1.0), want)


def test_one_minus_a_number() -> None:
    out = _of().forward(of=torch.tensor(0.25), scale=-1.0, shift=1.0)
    assert out.shape == ()
    assert out == 0.75


def test_scale_and_shift_per_sample() -> None:
    x = torch.ones(2, 3, 2)
    out = _of().forward(of=x, scale=torch.tensor([2.0, 3.0]), shift=torch.tensor([0.0, -1.0]))
    assert torch.equal(out, torch.full((2, 3, 2), 2.0))


def test_clamp_holds_the_result_and_stops_gradients_outside() -> None:
    x = torch.tensor([-3.0, 0.5, 9.0], requires_grad=True)
    out = _of(clamp=[0.0, 2.0]).forward(of=x, scale=2.0, shift=0.0)
    assert out.tolist() == [0.0, 1.0, 2.0]
    out.sum().backward()  # type: ignore[no-untyped-call]  # untyped there
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 0.0]


def test_whole_numbers_become_floats() -> None:
    out = _of().forward(of=torch.tensor([1, 2]), scale=0.5, shift=0.0)
    assert out.tolist() == [0.5, 1.0]


def test_clamp_is_lowest_then_highest() -> None:
    with pytest.raises(ValidationError, match="lowest, highest"):
        _of(clamp=[1.0, 0.0])
