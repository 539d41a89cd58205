from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from kdgraph.signals.normalise import Normalise
from kdgraph.spec.shapes import ShapeMismatch

X = torch.tensor([[3.0, 4.0, 0.0], [1.0, 2.0, 3.0]], dtype=torch.float64)


def test_golden_unit_length() -> None:
    out = Normalise(of="t.x").forward(of=X)
    root = math.sqrt(14)
    expected = torch.tensor([[0.6, 0.8, 0.0], [1 / root, 2 / root, 3 / root]], dtype=torch.float64)
    torch.testing.assert_close(out, expected)


def test_golden_logit_standardisation() -> None:
    out = Normalise(of="t.x", mode="standardise").forward(of=X)
    root = math.sqrt(1.5)  # 1 over the deviation of 1, 2, 3 over K
    torch.testing.assert_close(out[1], torch.tensor([-root, 0.0, root], dtype=torch.float64))
    # The published code, over K - 1, is the same at another temperature.
    published = (X - X.mean(-1, keepdim=True)) / X.std(-1, keepdim=True)
    torch.testing.assert_close(published, out / math.sqrt(3 / 2))


def test_over_channels_of_each_position() -> None:
    x = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(Normalise(of="t.x").forward(of=x), F.normalize(x, dim=1))
    tokens = torch.randn(2, 7, 5)
    torch.testing.assert_close(Normalise(of="t.x").forward(of=tokens), F.normalize(tokens, dim=-1))


def test_over_the_whole_sample() -> None:
    x = torch.randn(2, 5, 3, 4)
    flat = F.normalize(x.flatten(1), dim=1)
    out = Normalise(of="t.x", over="sample").forward(of=x)
    torch.testing.assert_close(out.flatten(1), flat)
    z = Normalise(of="t.x", over="sample", mode="standardise").forward(of=x).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.std(1, correction=0), torch.ones(2))


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e25])
def test_scale_does_not_matter(scale: float) -> None:
    x = torch.randn(4, 6)
    for mode in ("l2", "standardise"):
        entry = Normalise.model_validate({"of": "t.x", "mode": mode})
        torch.testing.assert_close(entry.forward(of=x * scale), entry.forward(of=x))


@pytest.mark.parametrize(
    ("mode", "value"), [("l2", 0.0), ("standardise", 0.0), ("standardise", 3.3)]
)
def test_a_row_without_direction_gives_zeros_and_no_gradient(mode: str, value: float) -> None:
    x = torch.full((2, 1000), value, requires_grad=True)
    entry = Normalise.model_validate({"of": "t.x", "mode": mode})
    out = entry.forward(of=x)
    assert not out.any()
    (out * torch.randn(1000)).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()


def test_nan_stays_visible() -> None:
    assert Normalise(of="t.x").forward(of=torch.tensor([[1.0, math.nan]])).isnan().any()


def test_refuses_what_has_no_spread() -> None:
    with pytest.raises(ShapeMismatch, match="no spread"):
        Normalise(of="t.x", mode="standardise").shape(of=(4, 1))
    with pytest.raises(ShapeMismatch, match="one value per sample"):
        Normalise(of="t.x").shape(of=(4,))
