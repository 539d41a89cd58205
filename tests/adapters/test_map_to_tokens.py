from __future__ import annotations

import torch

from kdgraph.adapters.map_to_tokens import MapToTokens
from kdgraph.adapters.tokens_to_map import TokensToMap


def test_reads_row_by_row_and_back() -> None:
    x = torch.randn(2, 5, 3, 4)
    tokens = MapToTokens().build((2, 5, 3, 4), (2, 12, 7))(x)
    assert tokens.shape == (2, 12, 5)
    assert torch.equal(tokens[:, 4], x[:, :, 1, 0])
    back = TokensToMap(size=(3, 4)).build((2, 12, 5), (2, 5, 3, 4))(tokens)
    assert torch.equal(back, x)


def test_channels_last_teacher() -> None:
    x = torch.randn(2, 5, 3, 4)
    out = MapToTokens().build((2, 5, 3, 4), (2, 3, 4, 9))(x)
    assert torch.equal(out, x.permute(0, 2, 3, 1))
