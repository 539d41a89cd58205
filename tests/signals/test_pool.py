from __future__ import annotations

import pytest
import torch

from kdgraph.signals.pool import Pool
from kdgraph.spec.shapes import Shape, ShapeMismatch

SHAPES: list[Shape] = [(4, 9, 6), (4, 6, 3, 3)]


def test_mean_over_positions() -> None:
    maps, tokens = torch.randn(2, 3, 4, 5), torch.randn(2, 7, 3)
    pool = Pool(of="teacher.mid")
    torch.testing.assert_close(pool.forward(of=maps), maps.mean((2, 3)))
    torch.testing.assert_close(pool.forward(of=tokens), tokens.mean(1))


def test_vectors_have_no_positions() -> None:
    with pytest.raises(ShapeMismatch, match="pool averages"):
        Pool(of="teacher.mid").shape(of=(4, 6))
