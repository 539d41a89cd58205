from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdgraph.signals.certainty import Certainty
from kdgraph.signals.logits import Logits
from kdgraph.signals.probabilities import Probabilities
from kdgraph.spec.shapes import ShapeMismatch, class_dim

SIGNAL = Logits(of="book")


def inputs(shape: tuple[int, ...]) -> dict[str, Tensor]:
    return {"of": torch.randn(shape).softmax(class_dim(shape))}


def test_known_values() -> None:
    p = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64)
    out = SIGNAL.forward(of=p, tau=2.0)
    assert out[0].tolist() == pytest.approx([-4 * math.log(2), -2 * math.log(2), -4 * math.log(2)])


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5), (4, 5, 2, 2)])
def test_the_same_temperature_gives_the_probabilities_back(shape: tuple[int, ...]) -> None:
    p = inputs(shape)["of"].double()
    for tau in (4.0, torch.tensor([1.0, 2.0, 0.5, 8.0])):
        z = SIGNAL.forward(of=p, tau=tau)
        torch.testing.assert_close(Probabilities(of="z").forward(of=z, tau=tau), p)


def test_another_temperature_is_a_power() -> None:
    p = torch.tensor([[0.1, 0.2, 0.7]], dtype=torch.float64)
    out = Probabilities(of="z").forward(of=SIGNAL.forward(of=p, tau=1.0), tau=0.5)
    torch.testing.assert_close(out, p**2 / (p**2).sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_class_that_cannot_be_stays_finite_and_has_no_share(dtype: torch.dtype) -> None:
    p = torch.tensor([[0.0, 0.25, 0.75]], dtype=dtype)
    z = SIGNAL.forward(of=p, tau=1.0)
    assert z.isfinite().all()
    torch.testing.assert_close(z.softmax(1), p.to(z.dtype))
    assert Certainty(of="z").forward(of=z).item() == pytest.approx(
        1 + (0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(3), rel=1e-5
    )


def test_labels_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="probabilities"):
        SIGNAL.shape(of=(4,))
