from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.intra_class_variance import IntraClassVariance

VARIANTS: list[dict[str, Any]] = [{}, {"axis": "feature"}]

FEATURES = torch.tensor([[1, 2, 3], [3, 2, 1], [0, 0, 6], [2, 2, 2]], dtype=torch.float64)
LABEL = torch.tensor([0, 0, 1, 1])


def further(student: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"target": torch.arange(len(student)) // 2}


def loss_of(**keys: Any) -> IntraClassVariance:
    return IntraClassVariance(student="student.mid", target="label", **keys)


def test_known_numbers(value_of: Callable[..., Any]) -> None:
    for axis, number in (("feature", 13.414213562373095), ("sample", 11.31370849898476)):
        value = value_of(loss_of(axis=axis), student=FEATURES, target=LABEL)
        assert value.item() == pytest.approx(number, rel=1e-12)


def test_against_numpy(value_of: Callable[..., Any]) -> None:
    features = torch.randn(9, 4).double()
    label = torch.tensor([0, 2, 2, 5, 0, 2, 7, 0, 5])  # 7 has one sample
    x = features.numpy()
    groups = [x[label.numpy() == c] for c in (0, 2, 5, 7)]
    sample = sum(np.linalg.norm(g.var(0, ddof=1)) for g in groups if len(g) > 1)
    feature = sum(np.linalg.norm(g.var(1, ddof=1)) for g in groups)
    for axis, number in (("feature", feature), ("sample", sample)):
        value = value_of(loss_of(axis=axis), student=features, target=label)
        assert value.item() == pytest.approx(number, rel=1e-12)


def test_classes_of_one_sample_learn_nothing(value_of: Callable[..., Any]) -> None:
    features = torch.randn(3, 4).requires_grad_()
    value = value_of(loss_of(), student=features, target=torch.arange(3))
    value.backward()
    assert value == 0
    assert features.grad is not None
    assert not features.grad.any()


def test_what_numbers_classes_have_does_not_count(value_of: Callable[..., Any]) -> None:
    features = torch.randn(6, 4).double()
    label = torch.tensor([0, 1, 0, 1, 2, 2])
    one, other = (
        value_of(loss_of(), student=features, target=names[label])
        for names in (torch.tensor([0, 1, 2]), torch.tensor([40, -7, 3]))
    )
    torch.testing.assert_close(one, other)


def test_unlabelled_samples_do_not_count(value_of: Callable[..., Any]) -> None:
    more = torch.cat([FEATURES, torch.randn(2, 3).double()])
    for axis in ("sample", "feature"):
        few = value_of(loss_of(axis=axis), student=FEATURES, target=LABEL)
        target = torch.cat([LABEL, torch.tensor([-100, -100])])
        torch.testing.assert_close(value_of(loss_of(axis=axis), student=more, target=target), few)
