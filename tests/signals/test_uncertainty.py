from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdgraph.signals.uncertainty import Uncertainty
from kdgraph.spec.shapes import ShapeMismatch

P = torch.tensor([[[0.7, 0.2, 0.1]], [[0.5, 0.3, 0.2]]], dtype=torch.float64)  # two passes
KINDS = ("epistemic", "aleatoric", "total")


def signal(**keys: Any) -> Uncertainty:
    return Uncertainty.model_validate({"of": ["teacher.logits"], **keys})


def value(logits: Tensor, **keys: Any) -> Tensor:
    return signal(**keys).forward(of=list(logits))


@pytest.mark.parametrize(
    ("measure", "kind", "expected"),
    [
        ("entropy", "total", 0.9376369622724493),
        ("entropy", "aleatoric", 0.9157357833039554),
        ("entropy", "epistemic", 0.0219011789684938),
        ("variance", "total", 0.555),
        ("variance", "aleatoric", 0.54),
        ("variance", "epistemic", 0.015),
    ],
)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_known_values(
    measure: str, kind: str, expected: float, dtype: torch.dtype, near: float
) -> None:
    logits = P.log().to(dtype) + 3.0  # whatever is added to all classes
    found = value(logits, measure=measure, kind=kind, normalise="none")
    assert found.item() == pytest.approx(expected, rel=near)
    most = math.log(3) if measure == "entropy" else 1 - 1 / 3
    found = value(logits, measure=measure, kind=kind)
    assert found.item() == pytest.approx(expected / most, rel=near)


@pytest.mark.parametrize("shape", [(5, 4, 7), (3, 2, 5, 6), (3, 2, 5, 2, 3)])
def test_against_numpy(shape: tuple[int, ...]) -> None:
    """Vectors, tokens and maps of K passes, by the definitions."""
    logits = np.random.default_rng(4).normal(size=shape) * 3
    dim = 2 if len(shape) == 5 else len(shape) - 1
    p = np.exp(logits) / np.exp(logits).sum(dim, keepdims=True)
    mean = p.mean(0)
    entropy = -(p * np.log(p)).sum(dim).mean(0)
    total = -(mean * np.log(mean)).sum(dim - 1)
    variance = (p - p**2).sum(dim).mean(0)
    spread = ((p - mean) ** 2).sum(dim).mean(0)
    expected = {
        ("entropy", "aleatoric"): entropy,
        ("entropy", "epistemic"): total - entropy,
        ("entropy", "total"): total,
        ("variance", "aleatoric"): variance,
        ("variance", "epistemic"): spread,
        ("variance", "total"): 1 - (mean**2).sum(dim - 1),
    }
    given = torch.from_numpy(logits)
    for (measure, kind), wanted in expected.items():
        found = value(given, measure=measure, kind=kind, normalise="none")
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-8)


@pytest.mark.parametrize("measure", ["entropy", "variance"])
def test_the_parts_add_up(measure: str) -> None:
    logits = torch.randn(6, 8, 5, dtype=torch.float64) * 4
    epistemic, aleatoric, total = (
        value(logits, measure=measure, kind=kind, normalise="none") for kind in KINDS
    )
    torch.testing.assert_close(epistemic + aleatoric, total, rtol=1e-12, atol=1e-14)
    if measure == "variance":
        mean = logits.softmax(2).mean(0)
        torch.testing.assert_close(total, 1 - mean.square().sum(1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("measure", ["entropy", "variance"])
def test_equal_passes_do_not_disagree(measure: str) -> None:
    logits = (torch.randn(16, 9) * 5).expand(7, 16, 9)
    found = value(logits, measure=measure)
    assert (found >= 0).all()
    assert found.max() < 1e-6


@pytest.mark.parametrize("measure", ["entropy", "variance"])
def test_within_its_bounds(measure: str) -> None:
    """Certain passes that contradict each other, and passes that know nothing."""
    apart, flat = torch.eye(4).unsqueeze(1) * 100, torch.zeros(4, 1, 4)
    for kind, logits in (("epistemic", apart), ("aleatoric", flat), ("total", apart)):
        assert value(logits, measure=measure, kind=kind).item() == pytest.approx(1)
    assert value(apart, measure=measure, kind="aleatoric").item() == pytest.approx(0, abs=1e-6)
    assert value(flat, measure=measure).item() == pytest.approx(0, abs=1e-6)


def test_largest_of_the_batch() -> None:
    logits = torch.randn(3, 6, 4)
    plain = value(logits, normalise="none")
    torch.testing.assert_close(value(logits, normalise="batch_max"), plain / plain.max())
    assert torch.equal(value(torch.zeros(2, 3, 4), normalise="batch_max"), torch.zeros(3))


def test_impossible_classes_count_for_nothing() -> None:
    logits = torch.randn(3, 5, 4, dtype=torch.float64)
    masked = torch.cat([logits, torch.full((3, 5, 2), -math.inf, dtype=torch.float64)], 2)
    masked[0, :, 4] = -40.0  # possible in one pass alone
    for measure in ("entropy", "variance"):
        for kind in KINDS:
            found = value(masked, measure=measure, kind=kind, normalise="none")
            wanted = value(logits, measure=measure, kind=kind, normalise="none")
            torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


def test_is_a_constant() -> None:
    assert not value(torch.randn(2, 3, 4, requires_grad=True)).requires_grad


def test_what_does_not_fit() -> None:
    with pytest.raises(ShapeMismatch, match="disagree with itself"):
        signal().shape(of=[(4, 3)])
    assert signal(kind="aleatoric").shape(of=[(4, 3)]) == (4,)
    with pytest.raises(ShapeMismatch, match="equal shapes"):
        signal().shape(of=[(4, 3), (4, 2)])
    with pytest.raises(ShapeMismatch, match="single class"):
        signal().shape(of=[(4, 1), (4, 1)])
