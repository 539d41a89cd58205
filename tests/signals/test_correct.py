from __future__ import annotations

from typing import Any

import pytest
import torch

from kdgraph.signals.correct import Correct
from kdgraph.spec.shapes import Shape, ShapeMismatch

SHAPES: list[Shape] = [(4, 6), (4, 9, 6), (4, 6, 3, 3)]


def inputs(shape: Shape) -> dict[str, Any]:
    rows = shape[:1] + shape[2:] if len(shape) == 4 else shape[:-1]
    return {"of": torch.randn(shape), "label": torch.randint(0, 6, rows)}


def test_where_the_largest_logit_is_the_labels() -> None:
    logits = torch.tensor([[2.0, 1, 0], [0, 3, 1], [1, 1, 0], [0, 0, 1]])
    right = Correct(of="t.logits", label="label").forward(
        of=logits, label=torch.tensor([0, 2, 0, -100])
    )
    assert right.tolist() == [1, 0, 1, 0]
    assert right.dtype == torch.float32


def test_pixels() -> None:
    logits, label = torch.randn(2, 5, 3, 4), torch.randint(0, 5, (2, 3, 4))
    right = Correct(of="t.logits", label="label").forward(of=logits, label=label)
    assert torch.equal(right, (logits.argmax(1) == label).float())


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="labels"):
        Correct(of="t.logits", label="label").shape(of=(4, 6, 8, 8), label=(4, 16, 16))
