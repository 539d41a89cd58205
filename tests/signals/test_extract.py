from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kdgraph.signals.extract import Extract

Z = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)


def _of(z: Tensor, tau: Any, **keys: Any) -> Tensor:
    return Extract(of="teacher.logits", **keys).forward(of=z, tau=tau)


def _softmax(z: np.ndarray) -> np.ndarray:
    raised = np.exp(z - z.max(-1, keepdims=True))
    p: np.ndarray = raised / raised.sum(-1, keepdims=True)
    return p


def test_golden_without_the_pedestal() -> None:
    want = torch.tensor([[0.69549565758, 0.30450434242, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(_of(Z, 4.0), want, atol=1e-11, rtol=0)


def test_golden_pedestal() -> None:
    p = _of(Z, 4.0, beta=0.0)
    assert 3 * p.min().item() == pytest.approx(0.7628256377713969, rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_floor_against_numpy(beta: float) -> None:
    z = np.random.default_rng(1).normal(size=(4, 7)) * 3
    p = _softmax(z / 2.5)
    e = p.min(1, keepdims=True)
    out = _of(torch.from_numpy(z), 2.5, beta=beta)
    np.testing.assert_allclose(out.numpy(), (p - beta * e) / (1 - 7 * beta * e), rtol=1e-11)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 4.0])
def test_mean_residual_against_numpy(kappa: float) -> None:
    z = np.random.default_rng(2).normal(size=(4, 7)) * 3
    want = 1 / 7 + kappa * (_softmax(z / 2.5) - 1 / 7)
    out = _of(torch.from_numpy(z), 2.5, variant="mean_residual", kappa=kappa)
    np.testing.assert_allclose(out.numpy(), want, rtol=1e-11, atol=1e-15)
    assert out.sum(1).tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("tau", [1e3, 1e6, 1e8])
def test_float32_keeps_its_digits_at_every_temperature(tau: float) -> None:
    z = torch.tensor([[3.1, -0.7, 1.3, 0.2]])
    torch.testing.assert_close(_of(z, tau).double(), _of(z.double(), tau), rtol=1e-6, atol=1e-7)
    keys: dict[str, Any] = {"variant": "mean_residual", "kappa": tau}
    exact = _of(z.double(), tau, **keys)
    torch.testing.assert_close(_of(z, tau, **keys).double(), exact, rtol=1e-5, atol=1e-6)


def test_limit_of_a_high_temperature() -> None:
    want = torch.tensor([[2 / 3, 1 / 3, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(_of(Z, 1e9), want, atol=1e-8, rtol=0)


@pytest.mark.parametrize("keys", [{}, {"beta": 0.5}, {"variant": "mean_residual", "kappa": 3.0}])
@pytest.mark.parametrize("tau", [0.01, 1.0, 50.0, 1e6])
def test_a_very_low_logit_is_fine(keys: dict[str, Any], tau: float) -> None:
    z = torch.tensor([[5.0, -1e4, 4.0], [-1e4, -1e4, 0.0]])
    out = _of(z, tau, **keys)
    assert out.isfinite().all()
    torch.testing.assert_close(out.sum(1), torch.ones(2))


@pytest.mark.parametrize("keys", [{}, {"beta": 0.5}, {"variant": "mean_residual", "kappa": 3.0}])
def test_a_uniform_teacher_stays_uniform(keys: dict[str, Any]) -> None:
    z = torch.full((2, 4), 0.1)
    z[1, 2] = 0.1 + 1e-8  # the same number to float32
    for tau in (0.5, 4.0, 1e6):
        torch.testing.assert_close(_of(z, tau, **keys), torch.full((2, 4), 0.25))


@pytest.mark.parametrize("keys", [{}, {"beta": 0.5}, {"variant": "mean_residual", "kappa": 3.0}])
def test_masked_classes_are_none(keys: dict[str, Any]) -> None:
    z = torch.cat([Z, torch.full((1, 2), -float("inf"))], 1)
    out = _of(z, 4.0, **keys)
    torch.testing.assert_close(out[:, :3], _of(Z, 4.0, **keys))
    assert out[:, 3:].tolist() == [[0.0, 0.0]]


def test_a_temperature_per_sample_over_maps() -> None:
    z = torch.randn(2, 5, 3, 3)
    out = _of(z, torch.tensor([2.0, 8.0]))
    torch.testing.assert_close(out, torch.cat([_of(z[:1], 2.0), _of(z[1:], 8.0)]))


def test_the_target_is_constant() -> None:
    assert not _of(Z.clone().requires_grad_(), 4.0).requires_grad


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"variant": "mean_residual"}, "needs 'kappa'"),
        ({"kappa": 1.0}, "'kappa' has no effect on 'floor'"),
        ({"variant": "mean_residual", "kappa": 1.0, "beta": 1.0}, "'beta' has no effect"),
    ],
)
def test_keys_fit_together(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Extract(of="teacher.logits", **keys)


def test_the_whole_residual_of_a_sure_teacher_is_its_distribution() -> None:
    z = torch.zeros(1, 100_000)
    z[0, 0] = 60
    found = _of(z, 1.0, variant="mean_residual", kappa=1.0)
    assert found[0, 0].item() == pytest.approx(1, rel=1e-5)
    assert found.sum().item() == pytest.approx(1, rel=1e-4)
