from __future__ import annotations

from typing import Any

import pytest
import torch

from kdgraph.signals.top_k_logits import TopKLogits
from kdgraph.spec.shapes import Shape, ShapeMismatch

SHAPES = [(4, 3), (4, 5, 3)]


def inputs(shape: Shape) -> dict[str, Any]:
    values, ids = torch.randn(*shape[:-1], 6).log_softmax(-1).topk(shape[-1])
    return {"values": values, "ids": ids, "tail": 1 - values.exp().sum(-1)}


def _signal(classes: int) -> TopKLogits:
    return TopKLogits(values="v", ids="i", tail="t", classes=classes)


def test_the_rest_is_spread_evenly() -> None:
    values = torch.tensor([[0.5, 0.3]], dtype=torch.float64).log()
    out = _signal(4).forward(
        values=values, ids=torch.tensor([[2, 0]]), tail=torch.tensor([0.2], dtype=torch.float64)
    )
    wanted = torch.tensor([[0.3, 0.1, 0.5, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(out.exp(), wanted)


def test_all_classes_are_the_distribution_again() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64)
    values, ids = logits.log_softmax(-1).topk(7)
    out = _signal(7).forward(values=values, ids=ids, tail=torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(out.softmax(-1), logits.softmax(-1))


def test_an_empty_tail_leaves_nothing_that_is_not_a_number() -> None:
    out = _signal(4).forward(
        values=torch.tensor([[0.0]]), ids=torch.tensor([[1]]), tail=torch.zeros(1)
    )
    assert out.isfinite().all()
    torch.testing.assert_close(out.softmax(-1), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeMismatch, match="3 values for 2 classes"):
        _signal(2).shape(values=(4, 3), ids=(4, 3), tail=(4,))
    with pytest.raises(ShapeMismatch, match="one value"):
        _signal(9).shape(values=(4, 3), ids=(4, 3), tail=(4, 3))
