from __future__ import annotations

import pytest
import torch

from kdgraph.signals.batch_weight import BatchWeight
from kdgraph.spec.shapes import ShapeMismatch

SIGNAL = BatchWeight(of="certainty")
SHAPES = [(4,), (4, 5), (4, 3, 3)]


def test_known_values() -> None:
    x = torch.tensor([0.1, 0.3], dtype=torch.float64)
    assert SIGNAL.forward(of=x, exponent=1.0).tolist() == pytest.approx([0.5, 1.5], rel=1e-12)
    assert SIGNAL.forward(of=x, exponent=2.0).tolist() == pytest.approx([0.2, 1.8], rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 3.0])
def test_the_mean_is_1(shape: tuple[int, ...], exponent: float) -> None:
    out = SIGNAL.forward(of=torch.rand(shape, dtype=torch.float64), exponent=exponent)
    assert out.mean().item() == pytest.approx(1, rel=1e-12)


def test_at_exponent_0_all_weigh_1() -> None:
    out = SIGNAL.forward(of=torch.tensor([0.0, 0.3, 5.0]), exponent=torch.tensor(0.0))
    assert torch.equal(out, torch.ones(3))


def test_an_exponent_per_sample() -> None:
    x = torch.tensor([0.5, 0.5], dtype=torch.float64)
    out = SIGNAL.forward(of=x, exponent=torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert out.tolist() == pytest.approx([4 / 3, 2 / 3], rel=1e-12)


def test_where_none_has_anything_all_weigh_1() -> None:
    assert torch.equal(SIGNAL.forward(of=torch.zeros(3), exponent=1.0), torch.ones(3))


@pytest.mark.parametrize("fill", [0.0, 100.0, float("nan"), float("inf")])
def test_rows_left_out_move_nothing(fill: float) -> None:
    x = torch.tensor([[0.1, 0.3, fill], [0.2, fill, fill]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    signal = BatchWeight(of="certainty", mask="mask")
    out = signal.forward(of=x, exponent=1.0, mask=mask)
    want = torch.tensor([[0.5, 1.5, 0], [1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(out, want, rtol=1e-12, atol=0)
    whole = signal.forward(of=x[:, :1], exponent=1.0, mask=torch.tensor([0, 1]))
    assert whole.tolist() == [[0], [1]]


def test_it_is_a_constant() -> None:
    x = torch.rand(4, requires_grad=True)
    assert not SIGNAL.forward(of=x, exponent=2.0).requires_grad


def test_mismatches() -> None:
    with pytest.raises(ShapeMismatch, match="one number"):
        SIGNAL.shape(of=())
    with pytest.raises(ShapeMismatch, match=r"mask \[5\]"):
        SIGNAL.shape(of=(4, 3), mask=(5,))
