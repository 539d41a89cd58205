from __future__ import annotations

import numpy as np
import pytest
import torch

from kdgraph.signals.agreement import Agreement
from kdgraph.spec.shapes import ShapeMismatch

SIGNAL = Agreement(of="teacher.logits", to="view.logits")


def test_known_values() -> None:
    of = torch.tensor([[2.0, 1, 0], [0, 3, 1], [1, 0, 0], [1, 1, 0]], dtype=torch.float64)
    to = torch.tensor([[1.0, 2, 0], [0, 1, 2], [0, 5, 0], [3, 3, 0]], dtype=torch.float64)
    # 4 / 5, 1 / sqrt 2, across, along
    expected = torch.tensor([0.8, 0.7071067811865475, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(SIGNAL.forward(of=of, to=to), expected, rtol=1e-12, atol=1e-12)


def test_maps_over_channels_as_numpy() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 3, 5, 2, 4))
    expected = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    found = SIGNAL.forward(of=torch.tensor(a), to=torch.tensor(b))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_a_zero_vector_agrees_with_none() -> None:
    assert SIGNAL.forward(of=torch.zeros(1, 3), to=torch.ones(1, 3)).item() == 0


def test_gradient_only_where_attached() -> None:
    a = torch.randn(2, 3, requires_grad=True)
    assert not SIGNAL.forward(of=a, to=torch.ones(2, 3)).requires_grad
    attached = Agreement(of="a.b", to="c.d", attached=True)
    attached.forward(of=a, to=torch.ones(2, 3)).sum().backward()  # type: ignore[no-untyped-call]  # untyped there
    assert a.grad is not None
    assert a.grad.abs().sum() > 0


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"view\.logits"):
        SIGNAL.shape(of=(4, 3), to=(4, 2))


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 1e30])
def test_the_size_of_a_vector_does_not_count(scale: float) -> None:
    x = torch.tensor([[1.0, -2, 3]])
    found = SIGNAL.forward(of=scale * x, to=x)
    torch.testing.assert_close(found, torch.ones(1))
