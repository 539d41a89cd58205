from __future__ import annotations

from typing import Any

import pytest
import torch

from kdgraph.signals.sequence_mask import SequenceMask
from kdgraph.spec.shapes import ShapeMismatch

SIGNAL = SequenceMask(lengths="frames", like="student.logits")


def inputs(shape: Any) -> dict[str, torch.Tensor]:
    return {"lengths": torch.arange(shape[0]), "like": torch.randn(shape)}


def test_known_value() -> None:
    mask = SIGNAL.forward(lengths=torch.tensor([0, 2, 3]), like=torch.zeros(3, 3, 5))
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[False] * 3, [True, True, False], [True] * 3]


@pytest.mark.parametrize(("lengths", "like"), [((3, 1), (3, 4)), ((3,), (4, 4)), ((3,), (3,))])
def test_shapes_that_do_not_fit(lengths: Any, like: Any) -> None:
    with pytest.raises(ShapeMismatch):
        SIGNAL.shape(lengths=lengths, like=like)
