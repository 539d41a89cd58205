from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdgraph.adapters.resize import Resize as Adapter
from kdgraph.signals.resize import Resize
from kdgraph.spec.shapes import Shape, ShapeMismatch


def inputs(shape: Shape) -> dict[str, Tensor]:
    return {"of": torch.randn(shape), "like": torch.zeros(shape[0], 5, 4, dtype=torch.int64)}


def signal(**keys: str) -> Resize:
    return Resize(of="teacher.logits", like="label", **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "area"])
@pytest.mark.parametrize("like", [(2, 6, 5), (2, 7, 6, 5), (2, 2, 2)])
def test_does_as_the_adapter_does(mode: str, like: Shape) -> None:
    of = (2, 3, 4, 4)
    x = torch.randn(of)
    built = Adapter.model_validate({"mode": mode}).build(of, (2, 1, *like[-2:]))
    assert torch.equal(signal(mode=mode).forward(of=x, like=torch.zeros(like)), built(x))


def test_a_new_value_half_way() -> None:
    x = torch.tensor([[[[0.0, 4.0]]]])
    out = signal().forward(of=x, like=torch.zeros(1, 1, 4))
    assert out.flatten().tolist() == [0.0, 1.0, 3.0, 4.0]


def test_only_maps() -> None:
    with pytest.raises(ShapeMismatch, match="maps"):
        signal().shape(of=(2, 9, 3), like=(2, 3, 3))
    with pytest.raises(ShapeMismatch, match="'like'"):
        signal().shape(of=(2, 3, 3, 3), like=(2,))
