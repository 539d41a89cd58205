from __future__ import annotations

import torch
from torch import Tensor

from kdgraph.signals.labelled import Labelled
from kdgraph.spec.shapes import Shape

SHAPES: list[Shape] = [(4,), (4, 9), (4, 3, 3)]


def inputs(shape: Shape) -> dict[str, Tensor]:
    return {"of": torch.randint(0, 3, shape)}


def test_ignored_labels_are_left_out() -> None:
    label = torch.tensor([[0, 255], [-100, 2]])
    assert Labelled(of="label").forward(of=label).tolist() == [[True, True], [False, True]]
    assert Labelled(of="label", ignore_index=255).forward(of=label).tolist() == [
        [True, False],
        [True, True],
    ]
