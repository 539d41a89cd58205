from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdgraph.signals.select_target import SelectTarget
from kdgraph.spec.shapes import Shape, ShapeMismatch

STUDENT = torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=torch.float64)
LABEL = torch.tensor([0, 1])  # the teacher is wrong, then right


def inputs(shape: Shape) -> dict[str, Tensor]:
    rows = (shape[0], *shape[2:]) if len(shape) >= 4 else shape[:-1]
    return {"teacher": torch.randn(shape), "label": torch.randint(0, 3, rows)}


def signal(**keys: Any) -> SelectTarget:
    return SelectTarget(teacher="teacher.logits", label="label", **keys)


@pytest.mark.parametrize(
    ("variant", "first", "mean"),
    [("hard", 0.241311296657, 0.675236329106), ("soft", None, 0.865182438828)],
)
def test_known_numbers(variant: str, first: float | None, mean: float) -> None:
    target = signal(variant=variant).forward(teacher=TEACHER, label=LABEL)
    cost = -(target * STUDENT.log_softmax(1)).sum(1)
    assert cost.mean().item() == pytest.approx(mean, rel=1e-11)
    if first is not None:
        assert cost.tolist() == pytest.approx([first, 1.109161361554], rel=1e-11)


def by_hand(teacher: Any, label: Any, variant: str) -> Any:
    """The target of one pixel, apart from the code under test."""
    q = np.exp(teacher) / np.exp(teacher).sum()
    onehot = np.eye(len(q))[label]
    if variant == "hard":
        return q if int(np.argmax(teacher)) == label else onehot
    return q[label] * q + (1 - q[label]) * onehot


@pytest.mark.parametrize("variant", ["hard", "soft"])
def test_pixel_by_pixel(variant: str) -> None:
    random = np.random.default_rng(3)
    teacher, label = random.normal(size=(2, 5, 3, 4)), random.integers(0, 5, (2, 3, 4))
    label[1, 2, 3] = label[0, 0, 0] = 255
    found = signal(variant=variant, ignore_index=255).forward(
        teacher=torch.from_numpy(teacher), label=torch.from_numpy(label)
    )
    for b, i, j in np.ndindex(label.shape):
        ignored = label[b, i, j] == 255
        expected = np.zeros(5) if ignored else by_hand(teacher[b, :, i, j], label[b, i, j], variant)
        np.testing.assert_allclose(found[b, :, i, j].numpy(), expected, rtol=1e-12)
    tokens = signal(variant=variant, ignore_index=255).forward(
        teacher=torch.from_numpy(teacher).flatten(2).mT, label=torch.from_numpy(label).flatten(1)
    )
    torch.testing.assert_close(tokens.mT.reshape(found.shape), found)


@pytest.mark.parametrize("variant", ["hard", "soft"])
def test_it_is_a_constant(variant: str) -> None:
    teacher = TEACHER.clone().requires_grad_()
    assert not signal(variant=variant).forward(teacher=teacher, label=LABEL).requires_grad


def test_an_impossible_class_costs_nothing() -> None:
    teacher = torch.tensor([[1.0, -float("inf"), 0.0]])
    for variant in ("hard", "soft"):
        target = signal(variant=variant).forward(teacher=teacher, label=torch.tensor([0]))
        assert target[0, 1] == 0
        assert target.sum().item() == pytest.approx(1)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="labels") as error:
        signal().shape(teacher=(2, 5, 4, 4), label=(2, 8, 8))
    assert error.value.adapters == ("signal resize",)
    with pytest.raises(ShapeMismatch, match="labels"):
        signal().shape(teacher=(2, 5), label=(2, 5))
