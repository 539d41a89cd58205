from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kdgraph.signals.certainty import Certainty
from kdgraph.spec.shapes import ShapeMismatch

SIGNAL = Certainty(of="student.logits")
Z = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)


def by_numpy(z: np.ndarray) -> np.ndarray:
    """Along the last dimension."""
    e = np.exp(z - z.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    out: np.ndarray = 1 + (p * np.log(p)).sum(-1) / np.log(z.shape[-1])
    return out


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_golden(dtype: torch.dtype, near: float) -> None:
    out = SIGNAL.forward(of=Z.to(dtype))
    assert out.tolist() == pytest.approx([0.434209310154, 0.003026563646], rel=near)


def test_own_golden_of_tokens_and_maps() -> None:
    z = torch.tensor(
        [[[0.3, -1.2, 2.1, 0.0], [5, 5, 5, 5]], [[-9, 9, 0, 1], [0.5, 0.5, -3, 0]]],
        dtype=torch.float64,
    )
    expected = torch.from_numpy(by_numpy(z.numpy()))
    torch.testing.assert_close(SIGNAL.forward(of=z), expected, rtol=1e-12, atol=1e-15)
    maps = z.movedim(2, 1).unsqueeze(3)
    torch.testing.assert_close(SIGNAL.forward(of=maps), expected.unsqueeze(2))


def test_near_the_uniform_distribution_single_precision_keeps_its_digits() -> None:
    z = torch.tensor([0.01, -0.02, 0.005, 0.0])
    double = SIGNAL.forward(of=z.double().unsqueeze(0)).item()
    assert double == pytest.approx(by_numpy(z.double().numpy()).item(), rel=1e-8)
    assert SIGNAL.forward(of=z.unsqueeze(0)).item() == pytest.approx(double, rel=1e-3)
    assert 0 < double < 1e-4


def test_uniform_is_0_and_one_class_is_1() -> None:
    z = torch.tensor([[1.5, 1.5, 1.5], [0.0, 1e4, 0.0], [0.0, -math.inf, -math.inf]])
    assert SIGNAL.forward(of=z).tolist() == pytest.approx([0, 1, 1], abs=1e-6)


@pytest.mark.parametrize("fill", [-math.inf, 0.0, 3.0, math.nan])
def test_padded_classes_are_left_out(fill: float) -> None:
    padded = torch.cat([Z, torch.full((2, 5), fill, dtype=Z.dtype)], 1)
    out = Certainty(of="student.logits", classes=3).forward(of=padded)
    assert out.tolist() == pytest.approx([0.434209310154, 0.003026563646], rel=1e-8)


def test_an_impossible_class_is_still_a_class() -> None:
    """ln C stays what the spec says; an impossible class is one that p never takes."""
    z = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    out = Certainty(of="student.logits", attached=True).forward(of=z)
    assert out.item() == pytest.approx(1 - math.log(2) / math.log(3))
    out.sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def gradient(signal: Certainty, z: Tensor) -> Tensor | None:
    leaf = z.clone().requires_grad_()
    out = signal.forward(of=leaf)
    if not out.requires_grad:
        return None
    out.sum().backward()
    return leaf.grad


def test_it_is_a_constant_unless_attached() -> None:
    assert gradient(SIGNAL, Z) is None
    attached = gradient(Certainty(of="student.logits", attached=True), Z)
    p, log_p = Z.softmax(1), Z.log_softmax(1)
    entropy = -(p * log_p).sum(1, keepdim=True)
    torch.testing.assert_close(attached, p * (log_p + entropy) / math.log(3), rtol=1e-12, atol=0)


def test_attached_gradients_are_exact() -> None:
    signal = Certainty(of="student.logits", attached=True, classes=3)
    z = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: signal.forward(of=z), z)


def test_half_precision_is_computed_in_single() -> None:
    out = SIGNAL.forward(of=Z.bfloat16())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, SIGNAL.forward(of=Z.bfloat16().float()))


def test_mismatches() -> None:
    with pytest.raises(ShapeMismatch, match="logits"):
        SIGNAL.shape(of=(4,))
    with pytest.raises(ShapeMismatch, match="1 classes"):
        SIGNAL.shape(of=(4, 1))
    with pytest.raises(ShapeMismatch, match=r"10 classes, but there must be 12"):
        Certainty(of="student.logits", classes=12).shape(of=(4, 8, 10))
