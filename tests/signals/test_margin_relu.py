from __future__ import annotations

import numpy as np
import pytest
import torch

from kdgraph.signals.margin_relu import MarginReLU
from kdgraph.spec.shapes import ShapeMismatch

SIGNAL = MarginReLU(of="teacher.mid")


def test_known_value() -> None:
    x = torch.tensor([[1.0, 2.0, -1.0], [-1.0, 3.0, -3.0], [-3.0, 0.0, -2.0]])
    # margins -2, none, -2
    want = [[1.0, 2.0, -1.0], [-1.0, 3.0, -2.0], [-2.0, 0.0, -2.0]]
    assert SIGNAL.forward(of=x).tolist() == want


@pytest.mark.parametrize("shape", [(5, 3), (4, 5, 3), (4, 3, 2, 5)])
def test_against_numpy(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).normal(size=shape)
    channels = np.moveaxis(x, 1 if len(shape) == 4 else -1, 0)
    want = np.stack([np.maximum(c, c[c < 0].mean()) for c in channels])
    want = np.moveaxis(want, 0, 1 if len(shape) == 4 else -1)
    np.testing.assert_allclose(SIGNAL.forward(of=torch.from_numpy(x)).numpy(), want, rtol=1e-12)


def test_numbers_per_sample_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="features"):
        SIGNAL.shape(of=(8,))
