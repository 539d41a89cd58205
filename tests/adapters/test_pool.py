from __future__ import annotations

import pytest
import torch

from kdgraph.adapters.pool import Pool
from kdgraph.spec.shapes import ShapeMismatch


def test_to_the_size_of_the_teacher() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    out = Pool().build((1, 1, 4, 4), (1, 9, 2, 2))(x)
    assert out.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


def test_to_a_vector() -> None:
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(Pool().build((2, 3, 4, 5), (2, 9))(x), x.mean((2, 3)))
    tokens = torch.randn(2, 7, 3)
    torch.testing.assert_close(Pool().build((2, 7, 3), (2, 9))(tokens), tokens.mean(1))


def test_only_shrinks() -> None:
    with pytest.raises(ShapeMismatch, match="only shrinks") as caught:
        Pool().shape((1, 1, 4, 2), (1, 1, 2, 4))
    assert caught.value.adapters == ("resize",)
