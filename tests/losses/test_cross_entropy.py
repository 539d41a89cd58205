from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdgraph.losses.cross_entropy import CrossEntropy
from kdgraph.spec.shapes import ShapeMismatch

LOGITS = True
VARIANTS: list[dict[str, Any]] = [
    {},
    {"smoothing": 0.1, "class_weights": [1.0, 2.0, 0.0, 3.0]},
]

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])


def further(student: Tensor) -> dict[str, Tensor]:
    """Labels out of the first two classes."""
    rows = student.shape[:-1] if student.dim() < 4 else (len(student), *student.shape[2:])
    labels = torch.arange(int(np.prod(rows))).reshape(rows) % 2
    return {"target": labels % student.shape[1 if student.dim() >= 4 else -1]}


def loss_of(**keys: Any) -> CrossEntropy:
    return CrossEntropy(student="student.logits", target="label", **keys)


def rows_of(student: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``-sum_k t_k w_k log q_k`` for soft labels over the last dimension."""
    log_q = student - np.log(np.exp(student).sum(-1, keepdims=True))
    return -(target * weights * log_q).sum(-1)


def test_known_numbers(value_of: Callable[..., Any]) -> None:
    tensors = {"student": STUDENT, "target": LABELS}
    assert value_of(loss_of(), **tensors).item() == pytest.approx(0.671627072443, abs=1e-12)
    smooth = value_of(loss_of(smoothing=0.1), **tensors)
    assert smooth.item() == pytest.approx(0.746627072443, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weights_and_ignored_labels(value_of: Callable[..., Any], smoothing: float) -> None:
    student, label = torch.randn(6, 3).double(), torch.tensor([0, 2, 255, 1, 2, 255])
    weights = np.array([1.0, 2.5, 0.5])
    keys = {"class_weights": weights.tolist(), "ignore_index": 255, "smoothing": smoothing}
    counts = label.numpy() != 255
    target = (1 - smoothing) * np.eye(3)[label.numpy()[counts]] + smoothing / 3
    rows = rows_of(student.numpy()[counts], target, weights)
    expected = {
        "mean": rows.sum() / weights[label.numpy()[counts]].sum(),
        "sum": rows.sum(),
        "batchmean": rows.sum() / 4,
    }
    for reduction, number in expected.items():
        value = value_of(loss_of(reduction=reduction, **keys), student=student, target=label)
        assert value.item() == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 0.5]])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_agrees_with_torch(
    value_of: Callable[..., Any],
    smoothing: float,
    weights: list[float] | None,
    soft: bool,
    reduction: str,
) -> None:
    student = torch.randn(4, 3, 2, 2).double()
    target = torch.randint(0, 3, (4, 2, 2))
    target[0, 0, 0] = -100
    if soft:
        target = torch.randn(4, 3, 2, 2).double().softmax(1)
    keys: dict[str, Any] = {"smoothing": smoothing, "class_weights": weights}
    value = value_of(loss_of(reduction=reduction, **keys), student=student, target=target)
    expected = F.cross_entropy(
        student, target, None if weights is None else torch.tensor(weights).double(),
        label_smoothing=smoothing, reduction=reduction,
    )  # fmt: skip
    torch.testing.assert_close(value, expected)


def test_soft_labels_by_hand(value_of: Callable[..., Any]) -> None:
    student = torch.randn(2, 3, 4).double()
    target = torch.randn(2, 3, 4).double().softmax(-1)
    expected = rows_of(student.numpy(), 0.9 * target.numpy() + 0.1 / 4, np.ones(4)).mean()
    value = value_of(loss_of(smoothing=0.1), student=student, target=target)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_ignored_labels_move_no_mean(value_of: Callable[..., Any]) -> None:
    more = {
        "student": torch.cat([STUDENT, torch.full((1, 3), float("nan"))]),
        "target": torch.tensor([0, 1, -100]),
    }
    few = value_of(loss_of(), student=STUDENT, target=LABELS)
    torch.testing.assert_close(value_of(loss_of(), **more), few)
    none = torch.full((2,), -100)
    assert value_of(loss_of(), student=STUDENT, target=none) == 0
    student = STUDENT.clone().requires_grad_()
    value_of(loss_of(), student=student, target=none).backward()
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_mask_and_ignored_labels_together(value_of: Callable[..., Any]) -> None:
    student = torch.randn(2, 3, 4).double()
    label = torch.tensor([[0, 1, -100], [2, 3, -100]])
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    rows = rows_of(student.numpy()[[0, 0, 1], [0, 1, 1]], np.eye(4)[[0, 1, 3]], np.ones(4))
    value = value_of(loss_of(), student=student, target=label, mask=mask)
    assert value.item() == pytest.approx(rows.mean())


def test_smoothing_passes_impossible_classes_by(value_of: Callable[..., Any]) -> None:
    more = torch.cat([STUDENT, torch.full((2, 1), -float("inf"))], 1)
    few = value_of(loss_of(smoothing=0.1), student=STUDENT, target=LABELS)
    torch.testing.assert_close(value_of(loss_of(smoothing=0.1), student=more, target=LABELS), few)


@pytest.mark.parametrize("keys", [{}, {"class_weights": [1.0, 1.0, 1.0, 0.0], "smoothing": 0.1}])
def test_impossible_classes_without_weight_or_label_cost_nothing(
    value_of: Callable[..., Any], keys: dict[str, Any]
) -> None:
    student = torch.cat([STUDENT, torch.full((2, 1), -float("inf"))], 1).requires_grad_()
    soft = torch.eye(4, dtype=torch.float64)[LABELS]
    index = value_of(loss_of(**keys), student=student, target=LABELS)
    value = value_of(loss_of(**keys), student=student, target=soft)
    value.backward()
    torch.testing.assert_close(value, index)
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_an_impossible_label_without_weight_costs_nothing(value_of: Callable[..., Any]) -> None:
    student = torch.cat([STUDENT, torch.full((2, 1), -float("inf"))], 1)
    loss = loss_of(class_weights=[1.0, 1.0, 1.0, 0.0])
    value = value_of(loss, student=student, target=torch.tensor([0, 3]))
    assert value.item() == pytest.approx(0.241311296657, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_any_integer_labels(value_of: Callable[..., Any], dtype: torch.dtype) -> None:
    value = value_of(loss_of(ignore_index=255), student=STUDENT, target=LABELS.to(dtype))
    assert value.item() == pytest.approx(0.671627072443, abs=1e-12)


def test_mismatches() -> None:
    with pytest.raises(ShapeMismatch, match="fit neither"):
        loss_of().shapes(student=(2, 3, 8, 8), target=(2, 4, 4))
    with pytest.raises(ShapeMismatch, match="fit neither"):
        loss_of().shapes(student=(2, 3), target=(2, 4))
    with pytest.raises(ShapeMismatch, match="2 class weights"):
        loss_of(class_weights=[1.0, 2.0]).shapes(student=(2, 3), target=(2,))
    with pytest.raises(ShapeMismatch, match=r"balance \[2\]"):
        loss_of(balance="b").shapes(student=(2, 3), target=(2,), balance=(2,))
    with pytest.raises(ValueError, match="not both"):
        loss_of(class_weights=[1.0], balance="b")


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
def test_weights_by_reference_are_those_written(
    value_of: Callable[..., Any], smoothing: float, soft: bool
) -> None:
    student = torch.randn(5, 3).double()
    target = torch.randn(5, 3).double().softmax(1) if soft else torch.arange(5) % 3
    weights = torch.tensor([0.5, 1.0, 1.5], requires_grad=True)
    written = loss_of(smoothing=smoothing, class_weights=weights.tolist())
    expected = value_of(written, student=student, target=target)
    loss = loss_of(smoothing=smoothing, balance="balance")
    student.requires_grad_()
    value = value_of(loss, student=student, target=target, balance=weights)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert weights.grad is None


# w = [.5, 1, 1.5], smoothing .1, two sets of labels: an independent computation with NumPy
@pytest.mark.parametrize(("label", "number"), [([0, 1], 0.954220485372), ([2, 0], 2.623818306673)])
def test_weighted_and_smoothed(
    value_of: Callable[..., Any], label: list[int], number: float
) -> None:
    loss = loss_of(smoothing=0.1, class_weights=[0.5, 1.0, 1.5])
    value = value_of(loss, student=STUDENT, target=torch.tensor(label))
    assert value.item() == pytest.approx(number, rel=1e-11)


def test_weighted_soft_labels_divide_by_the_number_of_rows(value_of: Callable[..., Any]) -> None:
    """So two index terms of MixUp and one soft label are not equal once classes have weights."""
    eye = torch.eye(3, dtype=torch.float64)
    mixed = 0.7 * eye[[0, 1]] + 0.3 * eye[[2, 0]]
    loss = loss_of(smoothing=0.1, class_weights=[0.5, 1.0, 1.5])
    value = value_of(loss, student=STUDENT, target=mixed)
    assert value.item() == pytest.approx(1.288111246822, rel=1e-11)
    assert abs(value.item() - 1.455099831762) > 0.1


def test_smoothing_alone_asks_for_no_impossible_label(value_of: Callable[..., Any]) -> None:
    loss = CrossEntropy(student="s.z", target="some.target", smoothing=1.0)
    student = torch.tensor([[-float("inf"), 1.0, 0.0]])
    assert value_of(loss, student=student, target=torch.tensor([0])).isfinite()
