from __future__ import annotations

import pytest
import torch

from kdgraph.adapters.tokens_to_map import TokensToMap as Adapter
from kdgraph.signals.tokens_to_map import TokensToMap
from kdgraph.spec.shapes import Shape, ShapeMismatch


@pytest.mark.parametrize(
    ("shape", "skip", "size"),
    [((2, 10, 4), 1, None), ((2, 8, 4), 2, (2, 3)), ((2, 3, 3, 4), 0, None)],
)
def test_does_as_the_adapter_does(shape: Shape, skip: int, size: tuple[int, int] | None) -> None:
    entry = TokensToMap(of="teacher.block", skip=skip, size=size)
    adapter = Adapter(skip=skip, size=size)
    x = torch.randn(shape)
    assert torch.equal(entry.forward(of=x), adapter.build(shape, shape)(x))
    assert entry.shape(of=shape) == adapter.shape(shape, shape)


def test_says_what_would_fit() -> None:
    with pytest.raises(ShapeMismatch, match="'skip: 1' leaves 14 squared"):
        TokensToMap(of="teacher.block").shape(of=(2, 197, 8))
