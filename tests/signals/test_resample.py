from __future__ import annotations

from typing import Any

import pytest
import torch

from kdgraph.signals.resample import Resample
from kdgraph.spec.shapes import ShapeMismatch

SIGNAL = Resample(of="teacher.logits", like="student.logits")
SHAPES = [(4, 3, 2), (4, 6, 2)]


def inputs(shape: Any) -> dict[str, torch.Tensor]:
    return {"of": torch.randn(shape), "like": torch.zeros(shape[0], 5, dtype=torch.int64)}


def test_known_values() -> None:
    """Twice as many positions: each lies a quarter of a step beside an old one."""
    x = torch.tensor([0.0, 4.0, 8.0]).reshape(1, 3, 1)
    found = SIGNAL.forward(of=x, like=torch.zeros(1, 6, 9)).flatten().tolist()
    assert found == pytest.approx([0, 1, 3, 5, 7, 8])
    nearest = SIGNAL.model_copy(update={"mode": "nearest"})
    found = nearest.forward(of=x, like=torch.zeros(1, 6, 9)).flatten().tolist()
    assert found == [0, 0, 4, 4, 8, 8]


def test_as_many_positions_change_nothing() -> None:
    x = torch.randn(2, 5, 3)
    for mode in ("linear", "nearest"):
        signal = SIGNAL.model_copy(update={"mode": mode})
        torch.testing.assert_close(signal.forward(of=x, like=x), x)


@pytest.mark.parametrize(("of", "like"), [((3, 4), (3, 4, 5)), ((3, 4, 5), (2, 4, 5))])
def test_shapes_that_do_not_fit(of: Any, like: Any) -> None:
    with pytest.raises(ShapeMismatch):
        SIGNAL.shape(of=of, like=like)
