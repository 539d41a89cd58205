from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.orthogonal_projection import OrthogonalProjection

VARIANTS: list[dict[str, Any]] = [{}, {"variant": "signed", "gamma": 1.0}]

FEATURES = torch.tensor([[1, 2, 3], [3, 2, 1], [0, 0, 6], [2, 2, 2]], dtype=torch.float64)
LABEL = torch.tensor([0, 0, 1, 1])


def further(student: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"target": torch.arange(len(student)) // 2}


def loss_of(**keys: Any) -> OrthogonalProjection:
    return OrthogonalProjection(student="student.mid", target="label", **keys)


def test_known_number(value_of: Callable[..., Any]) -> None:
    for variant in ("signed", "absolute"):  # all cosines are positive here
        value = value_of(loss_of(variant=variant), student=FEATURES, target=LABEL)
        assert value.item() == pytest.approx(0.7192677699804376, rel=1e-12)


def test_against_numpy(value_of: Callable[..., Any]) -> None:
    features, label = torch.randn(6, 4).double(), torch.tensor([0, 1, 0, 2, 1, 0])
    x = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    same: list[float] = []
    other: list[float] = []
    for i in range(6):
        for j in range(6):
            if i != j:
                (same if label[i] == label[j] else other).append(x[i] @ x[j])
    s, d = np.mean(same), np.mean(other)
    for variant, number in (("signed", 1 - s + 0.3 * d), ("absolute", 1 - s + 0.3 * abs(d))):
        loss = loss_of(variant=variant, gamma=0.3)
        value = value_of(loss, student=features, target=label)
        assert value.item() == pytest.approx(number, rel=1e-6)  # 1e-6 beside each number of pairs


def test_orthogonal_classes_cost_nothing(value_of: Callable[..., Any]) -> None:
    features = torch.tensor([[1.0, 0], [2, 0], [0, 1], [0, 3]])
    value = value_of(loss_of(), student=features, target=LABEL)
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_a_batch_of_one_class_and_of_one_sample(value_of: Callable[..., Any]) -> None:
    features = torch.ones(3, 2)
    value = value_of(loss_of(), student=features, target=torch.zeros(3))
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert value_of(loss_of(), student=features[:1], target=torch.zeros(1)) == 1


def test_unlabelled_samples_do_not_count(value_of: Callable[..., Any]) -> None:
    more = torch.cat([FEATURES, torch.randn(2, 3).double()])
    few = value_of(loss_of(), student=FEATURES, target=LABEL)
    target = torch.cat([LABEL, torch.tensor([-100, -100])])
    torch.testing.assert_close(value_of(loss_of(), student=more, target=target), few)
