from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.signals.virtual_teacher import VirtualTeacher
from kdgraph.spec.shapes import Shape, ShapeMismatch


def inputs(shape: Shape) -> dict[str, Any]:
    at = 1 if len(shape) == 4 else -1
    rows = torch.zeros(shape).select(at, 0)
    return {"label": torch.randint(0, shape[at], rows.shape), "like": torch.randn(shape)}


def _made(label: list[int], classes: int, tau: Any, **keys: Any) -> torch.Tensor:
    entry = VirtualTeacher(label="label", like="student.logits", **keys)
    like = torch.zeros(len(label), classes, dtype=torch.float64)
    return entry.forward(label=torch.tensor(label), like=like, tau=tau)


@pytest.mark.parametrize(
    ("variant", "row"),
    [
        ("softmax_of_probs", [0.3443661085, 0.3278169457, 0.3278169457]),
        ("power_renorm", [0.3944287220, 0.3027856390, 0.3027856390]),
    ],
)
def test_golden_rows(variant: str, row: list[float]) -> None:
    out = _made([0, 1], 3, 20.0, variant=variant)
    want = torch.tensor([row, [row[1], row[0], row[1]]], dtype=torch.float64)
    torch.testing.assert_close(out, want, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("tau", "peak", "rest"), [(20.0, 0.010502074, 0.009994929), (40.0, 0.010247995, 0.009997495)]
)
def test_the_official_target_of_100_classes_is_nearly_uniform(
    tau: float, peak: float, rest: float
) -> None:
    out = _made([7], 100, tau, variant="softmax_of_probs")
    assert out[0, 7].item() == pytest.approx(peak, abs=1e-9)
    assert out[0, 8].item() == pytest.approx(rest, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("tau", [1.0, 3.0, 1e4])
def test_against_numpy(classes: int, tau: float) -> None:
    p = np.full((1, classes), 0.1 / (classes - 1))
    p[0, 1] = 0.9
    power, raised = p ** (1 / tau), np.exp(p / tau)
    for variant, made in (("power_renorm", power), ("softmax_of_probs", raised)):
        out = _made([1], classes, tau, correct=0.9, variant=variant)
        np.testing.assert_allclose(out.numpy(), made / made.sum(), rtol=1e-13)


def test_a_temperature_of_one_is_the_distribution_itself() -> None:
    assert _made([2], 3, 1.0, correct=0.9)[0].tolist() == pytest.approx([0.05, 0.05, 0.9])


@pytest.mark.parametrize("variant", ["power_renorm", "softmax_of_probs"])
def test_moving_and_per_sample_temperatures(variant: str) -> None:
    each = _made([0, 1], 4, torch.tensor([2.0, 20.0], dtype=torch.float64), variant=variant)
    for row, tau in enumerate((2.0, 20.0)):
        alone = _made([row], 4, torch.tensor(tau, dtype=torch.float64), variant=variant)
        torch.testing.assert_close(each[row : row + 1], alone)
        torch.testing.assert_close(alone, _made([row], 4, tau, variant=variant))


def test_certainty_leaves_nothing_for_other_classes() -> None:
    assert _made([1], 3, 20.0, correct=1.0).tolist() == [[0.0, 1.0, 0.0]]


def test_ignored_labels_give_zeros_and_maps_have_classes_second() -> None:
    entry = VirtualTeacher(label="label", like="student.logits", tau=1.0, correct=0.7)
    label = torch.tensor([[[0, -100], [3, 1]]])
    out = entry.forward(label=label, like=torch.zeros(1, 4, 2, 2), tau=1.0)
    assert out[0, :, 0, 1].tolist() == [0.0] * 4
    assert out[0, :, 1, 0].tolist() == pytest.approx([0.1, 0.1, 0.1, 0.7])


def test_the_gradient_of_the_logits_is_none() -> None:
    like = torch.randn(2, 3, requires_grad=True)
    entry = VirtualTeacher(label="label", like="student.logits")
    assert not entry.forward(label=torch.tensor([0, 1]), like=like, tau=20.0).requires_grad


def test_less_than_the_even_share_is_refused() -> None:
    entry = VirtualTeacher(label="label", like="student.logits", correct=0.2)
    with pytest.raises(ShapeMismatch, match="even share of 3 classes"):
        entry.shape(label=(4,), like=(4, 3))
    assert entry.shape(label=(4,), like=(4, 5)) == (4, 5)
    with pytest.raises(ShapeMismatch, match="do not fit"):
        entry.shape(label=(4, 2), like=(4, 5))
