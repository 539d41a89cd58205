from __future__ import annotations

import pytest
import torch
from torch import nn

from kdgraph.adapters.auto import Auto
from kdgraph.adapters.chain import Chain
from kdgraph.adapters.conv1x1 import Conv1x1
from kdgraph.adapters.identity import Identity
from kdgraph.adapters.resize import Resize
from kdgraph.adapters.tokens_to_map import TokensToMap
from kdgraph.spec.language import LinkSpec
from kdgraph.spec.shapes import ShapeMismatch

S, T = (2, 3, 4, 4), (2, 5, 8, 8)


def test_a_list_in_a_link_is_a_chain() -> None:
    adapter = ["resize", {"use": "conv1x1", "norm": "batch"}]
    link = LinkSpec.model_validate({"student": "s.x", "teacher": "t.x", "adapter": adapter})
    assert link.adapter == Chain(of=(Resize(), Conv1x1(norm="batch")))


def test_runs_in_order() -> None:
    chain = Chain(of=(Resize(), Conv1x1()))
    module = chain.build(S, T)
    assert isinstance(module, nn.Sequential)
    assert len(module) == 2
    x = torch.randn(S)
    assert torch.equal(module(x), module[1](module[0](x)))
    assert chain.shape(S, T) == T


def test_resolves_what_is_inside() -> None:
    inner = Chain(of=(Identity(), Auto()))
    found = Chain(of=(TokensToMap(skip=1), inner)).resolve((2, 17, 3), T)
    assert found == Chain(of=(TokensToMap(skip=1), Resize(), Conv1x1()))
    assert found.describe() == "tokens_to_map(skip=1), then resize, then conv1x1"


def test_a_chain_of_nothing_is_the_identity() -> None:
    assert Chain(of=(Auto(),)).resolve(S, S) == Identity()


def test_a_step_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ShapeMismatch, match="conv1x1 works on maps"):
        Chain(of=(Conv1x1(), Resize())).shape((2, 7, 3), T)
