from __future__ import annotations

import pytest
import torch

from kdgraph.signals.one_vs_rest import OneVsRest
from kdgraph.spec.shapes import ShapeMismatch

SIGNAL = OneVsRest(of="soft")


def test_a_pair_for_each_class() -> None:
    found = SIGNAL.forward(of=torch.tensor([[0.25, 0.75, 0.0]]))
    assert found.tolist() == [[[0.25, 0.75], [0.75, 0.25], [0.0, 1.0]]]
    assert SIGNAL.shape(of=(1, 3)) == tuple(found.shape)


def test_maps_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="probabilities"):
        SIGNAL.shape(of=(8, 10, 4, 4))
