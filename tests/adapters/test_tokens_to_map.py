from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from kdgraph.adapters.tokens_to_map import TokensToMap
from kdgraph.spec.shapes import ShapeMismatch

T = (1, 8, 9, 9)


def test_lays_tokens_out_row_by_row() -> None:
    x = torch.arange(7.0).reshape(1, 7, 1)  # a class token, then two rows of three
    out = TokensToMap(skip=1, size=(2, 3)).build((1, 7, 1), T)(x)
    assert out[0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_channels_last_map() -> None:
    x = torch.randn(2, 3, 4, 5)
    out = TokensToMap().build((2, 3, 4, 5), T)(x)
    assert torch.equal(out, x.permute(0, 3, 1, 2))


def test_says_what_would_fit() -> None:
    with pytest.raises(ShapeMismatch, match="197 tokens are not a square map; 'skip: 1' leaves 14"):
        TokensToMap().shape((2, 197, 64), T)
    with pytest.raises(ShapeMismatch, match="without the first 1 do not fill a map of 4 x 4"):
        TokensToMap(skip=1, size=(4, 4)).shape((2, 16, 64), T)
    with pytest.raises(ShapeMismatch, match="5 tokens without the first 5"):
        TokensToMap(skip=5).shape((2, 5, 64), T)


def test_keys() -> None:
    assert TokensToMap.model_validate({"size": [2, 3]}).size == (2, 3)
    for bad in ({"skip": -1}, {"size": [2, 0]}, {"size": [2]}):
        with pytest.raises(ValidationError):
            TokensToMap.model_validate(bad)
