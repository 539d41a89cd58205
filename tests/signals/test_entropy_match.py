from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kdgraph.signals.entropy_match import EntropyMatch


def _of(z: Tensor, entropy: float) -> Tensor:
    return EntropyMatch(of="teacher.logits", entropy=entropy).forward(of=z)


def _uniformity(z: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """``H(softmax(z / tau)) / ln K``."""
    raised = np.exp((z - z.max(1, keepdims=True)) / tau[:, None])
    p = raised / raised.sum(1, keepdims=True)
    entropy = -(p * np.log(p, where=p > 0, out=np.zeros_like(p))).sum(1)
    found: np.ndarray = entropy / np.log(z.shape[1])
    return found


def test_golden() -> None:
    z = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    assert _of(z, 0.9).item() == pytest.approx(1.6683307480569447, rel=1e-12)
    assert _of(z.float(), 0.9).item() == pytest.approx(1.6683307480569447, rel=1e-5)


@pytest.mark.parametrize("entropy", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_every_sample_gets_the_entropy_asked_for(entropy: float, size: float) -> None:
    z = np.random.default_rng(3).normal(size=(6, 11)) * size
    tau = _of(torch.from_numpy(z), entropy).numpy()
    np.testing.assert_allclose(_uniformity(z, tau), entropy, rtol=1e-9)


def test_tied_maxima_have_no_root_and_give_the_end_of_the_interval() -> None:
    z = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)  # H >= ln 2 = 0.5 ln 4
    tau = _of(z, 0.4)
    assert tau.item() == pytest.approx(2**-16)
    assert (z / tau).softmax(1).tolist() == [[0.5, 0.5, 0.0, 0.0]]


def test_equal_logits_have_temperature_one() -> None:
    assert _of(torch.full((2, 5), -3.0), 0.5).tolist() == [1.0, 1.0]


def test_masked_classes_are_not_counted() -> None:
    z = torch.randn(3, 4, dtype=torch.float64)
    wider = torch.cat([z, torch.full((3, 2), -float("inf"), dtype=torch.float64)], 1)
    torch.testing.assert_close(_of(wider, 0.7), _of(z, 0.7))


def test_the_temperature_is_constant() -> None:
    assert not _of(torch.randn(2, 3, requires_grad=True), 0.9).requires_grad
