from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdgraph.signals.product import Product
from kdgraph.spec.shapes import Shape, ShapeMismatch


def inputs(shape: Shape) -> dict[str, Any]:
    """A weight and a mask: two factors of the largest float have no finite product."""
    return {"of": [torch.randn(shape), torch.randint(0, 2, shape[:1], dtype=torch.bool)]}


def _product(*factors: Tensor) -> Tensor:
    entry = Product(of=tuple(f"some.tap{i}" for i in range(len(factors))))
    out = entry.forward(of=list(factors))
    assert tuple(out.shape) == entry.shape(of=[tuple(f.shape) for f in factors])
    return out


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4)])
def test_a_number_and_a_sample_weight_line_up_with_rows(shape: Shape) -> None:
    rows = torch.randn(shape)
    out = _product(torch.tensor(3.0), torch.tensor([1.0, -2.0]), rows)
    want = torch.stack([3 * rows[0], -6 * rows[1]])
    torch.testing.assert_close(out, want)


def test_square_rows_are_not_transposed() -> None:
    out = _product(torch.tensor([1.0, 10.0]), torch.ones(2, 2))
    assert out.tolist() == [[1.0, 1.0], [10.0, 10.0]]


def test_masks_count_as_zero_and_one() -> None:
    out = _product(torch.tensor([True, False, True]), torch.tensor([0.5, 0.5, 2.0]))
    assert out.tolist() == [0.5, 0.0, 2.0]


def test_one_factor_is_itself() -> None:
    assert _product(torch.tensor([4.0])).tolist() == [4.0]


def test_gradient_reaches_every_factor() -> None:
    weight = torch.tensor([2.0, 3.0], requires_grad=True)
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    _product(weight, rows).sum().backward()  # type: ignore[no-untyped-call]  # untyped there
    assert weight.grad is not None
    assert rows.grad is not None
    assert weight.grad.tolist() == [3.0, 7.0]
    assert rows.grad.tolist() == [[2.0, 2.0], [3.0, 3.0]]


@pytest.mark.parametrize("other", [(3,), (2, 4), (4, 2)])
def test_shapes_that_do_not_line_up(other: Shape) -> None:
    with pytest.raises(ShapeMismatch, match="does not line up"):
        Product(of=("a", "b")).shape(of=[(2, 3), other])
