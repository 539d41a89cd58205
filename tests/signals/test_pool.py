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


def test_positions_outside_the_mask_do_not_count() -> None:
    tokens, mask = torch.randn(3, 4, 2), torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    pool = Pool(of="teacher.mid", mask="mask")
    found = pool.forward(of=tokens, mask=mask)
    wanted = torch.stack([tokens[0, :2].mean(0), tokens[1, 2], torch.zeros(2)])
    torch.testing.assert_close(found, wanted)
    tokens[0, 3] = float("nan")
    torch.testing.assert_close(pool.forward(of=tokens, mask=mask), wanted)
    maps = torch.arange(8.0).view(1, 2, 2, 2)
    found = pool.forward(of=maps, mask=torch.tensor([[[1, 0], [0, 1]]]))
    assert found.tolist() == [[1.5, 5.5]]  # of 0 and 3, of 4 and 7


def test_a_mask_is_of_the_positions() -> None:
    assert Pool(of="teacher.mid", mask="mask").shape(of=(4, 6, 3), mask=(4, 6)) == (4, 3)
    with pytest.raises(ShapeMismatch, match="none of the positions"):
        Pool(of="teacher.mid", mask="mask").shape(of=(4, 6, 3), mask=(4, 3))
