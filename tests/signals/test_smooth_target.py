from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kdgraph.signals.smooth_target import SmoothTarget
from kdgraph.spec.shapes import ShapeMismatch, class_dim

SIGNAL = SmoothTarget(label="label", toward="past.logits", by="alpha")
TOWARD = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)
LABEL = torch.tensor([0, 1])


def inputs(shape: tuple[int, ...]) -> dict[str, Tensor]:
    at = class_dim(shape)
    rows = shape[:at] + shape[at + 1 :]
    label = torch.randint(0, shape[at], rows)
    label[0] = -100
    # a mask: the generic tests expect a gradient for every float, and ``toward`` has none
    return {"label": label, "toward": torch.randn(shape), "by": torch.rand(rows) < 0.5}


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    out: np.ndarray = e / e.sum(-1, keepdims=True)
    return out


def test_known_value() -> None:
    by = torch.tensor([0.25, 1.0], dtype=torch.float64)
    expected = softmax(TOWARD.numpy()) * np.array([[0.25], [1.0]])
    expected[0, 0] += 0.75
    out = SIGNAL.forward(label=LABEL, toward=TOWARD, by=by)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12)


def test_own_golden_of_tokens() -> None:
    z = np.array([[[0.2, -1.0, 0.7], [3.0, 0.0, -2.0]], [[0.0, 0.0, 0.0], [-1.0, 4.0, 1.0]]])
    label = np.array([[2, 0], [1, -100]])
    by = np.array([[0.1, 0.9], [0.5, 0.4]])
    expected = by[..., None] * softmax(z / 2) + (1 - by)[..., None] * (
        label[..., None] == np.arange(3)
    )
    expected[1, 1] = 0
    out = SIGNAL.forward(
        label=torch.from_numpy(label),
        toward=torch.from_numpy(z),
        by=torch.from_numpy(by),
        tau=2.0,
    )
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12)
    maps = SIGNAL.forward(
        label=torch.from_numpy(label)[..., None],
        toward=torch.from_numpy(z).movedim(2, 1)[..., None],
        by=torch.from_numpy(by)[..., None],
        tau=2.0,
    )
    torch.testing.assert_close(maps.squeeze(3).movedim(1, 2), out)


@pytest.mark.parametrize("by", [0.0, 0.3, 1.0])
def test_one_number_and_one_per_sample(by: float) -> None:
    toward = torch.randn(2, 4, 3, dtype=torch.float64)
    label = torch.randint(0, 3, (2, 4))
    one = torch.tensor(by, dtype=torch.float64)
    each = SIGNAL.forward(label=label, toward=toward, by=one.expand(2, 4))
    for value in (one, one.expand(2)):
        torch.testing.assert_close(SIGNAL.forward(label=label, toward=toward, by=value), each)
    torch.testing.assert_close(each.sum(2), torch.ones(2, 4, dtype=torch.float64))


def test_a_large_temperature_is_uniform_smoothing() -> None:
    by = torch.tensor(0.1, dtype=torch.float64)
    out = SIGNAL.forward(label=LABEL, toward=TOWARD, by=by, tau=1e9)
    uniform = 0.9 * torch.eye(3, dtype=torch.float64)[LABEL] + 0.1 / 3
    torch.testing.assert_close(out, uniform, rtol=0, atol=1e-9)


def test_temperature_per_sample() -> None:
    by = torch.tensor([0.5, 0.5], dtype=torch.float64)
    tau = torch.tensor([1.0, 4.0], dtype=torch.float64)
    out = SIGNAL.forward(label=LABEL, toward=TOWARD, by=by, tau=tau)
    for row, value in enumerate(tau.tolist()):
        one = SIGNAL.forward(label=LABEL, toward=TOWARD, by=by, tau=value)
        torch.testing.assert_close(out[row], one[row])


def test_an_ignored_label_gives_zeros_whatever_else_is_there() -> None:
    toward = TOWARD.clone()
    toward[0] = math.nan
    label = torch.tensor([-100, 1])
    out = SIGNAL.forward(label=label, toward=toward, by=torch.tensor([math.nan, 0.0]))
    assert out.tolist() == [[0, 0, 0], [0, 1, 0]]
    other = SmoothTarget(label="label", toward="past.logits", by="alpha", ignore_index=255)
    label = torch.tensor([255, 1], dtype=torch.uint8)
    assert other.forward(label=label, toward=TOWARD, by=torch.tensor(0.5))[0].tolist() == [0, 0, 0]


def test_gradients_go_through_the_share_alone() -> None:
    toward = TOWARD.clone().requires_grad_()
    by = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    out = SIGNAL.forward(label=LABEL, toward=toward, by=by)
    pull = torch.randn_like(out)
    (out * pull).sum().backward()
    assert toward.grad is None
    prior = TOWARD.softmax(1)
    expected = (pull * prior).sum(1) - pull.gather(1, LABEL.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(by.grad, expected)


def test_a_gradient_of_the_share_is_exact() -> None:
    by = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([[0, 1, 2, -100], [1, 1, -100, 0]])
    toward = torch.randn(2, 4, 3, dtype=torch.float64)
    run = lambda by: SIGNAL.forward(label=label, toward=toward, by=by, tau=2.0)  # noqa: E731
    assert torch.autograd.gradcheck(run, by)


def test_mismatches() -> None:
    assert SIGNAL.shape(label=(4, 7), toward=(4, 7, 9), by=()) == (4, 7, 9)
    with pytest.raises(ShapeMismatch, match="labels"):
        SIGNAL.shape(label=(4, 7), toward=(4, 8, 9), by=())
    with pytest.raises(ShapeMismatch, match="alpha"):
        SIGNAL.shape(label=(4, 7), toward=(4, 7, 9), by=(7,))
    with pytest.raises(ShapeMismatch, match="logits"):
        SIGNAL.shape(label=(4,), toward=(4,), by=())
