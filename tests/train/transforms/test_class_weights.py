"""Weights of classes are counted from the training rows alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kdgraph
from kdgraph.errors import DataError
from kdgraph.train.data._open import open_data
from kdgraph.train.data._split import RowSplit, TensorSplit, seeded
from kdgraph.train.data.transforms.class_weights import ClassWeights

COUNTS = (2114, 861, 793, 857, 1698)


def test_counts_of_the_liver_data() -> None:
    label = torch.arange(5).repeat_interleave(torch.tensor(COUNTS))
    fitted = ClassWeights().fitted(TensorSplit({"label": label}))
    batch = fitted.apply({"label": label[:3]}, seeded("t"))
    expected = [0.598202, 1.468757, 1.594704, 1.475613, 0.744759]
    assert batch["class_weights"].tolist() == pytest.approx(expected, abs=5e-7)
    assert float(batch["class_weights"][label].mean()) == pytest.approx(1)


def test_what_is_written_is_taken() -> None:
    written = ClassWeights(weights=(1, 2), name="w")
    assert written.fitted(TensorSplit({"label": torch.zeros(3)})) == written
    assert written.apply({}, seeded("t"))["w"].tolist() == [1, 2]


def test_what_cannot_be_counted() -> None:
    rows = RowSplit([0, 1], lambda value: {"label": torch.tensor(value)})
    with pytest.raises(DataError, match=r"KD719.*`label`"):
        ClassWeights().fitted(rows)
    with pytest.raises(DataError, match=r"KD719.*no row of class 1"):
        ClassWeights().fitted(TensorSplit({"label": torch.tensor([0, 2])}))


def test_a_limit_counts(make_spec: Any) -> None:
    text = make_spec(data={"transforms": [{"use": "class_weights"}], "limit": 100})
    text["batch"]["class_weights"] = {"shape": [10]}
    data, splits = open_data(kdgraph.load_spec(text))
    (step,) = data.steps()
    assert isinstance(step, ClassWeights)
    labels = splits.train.labels()
    assert labels is not None
    assert step.weights == pytest.approx([10 / n for n in labels.bincount().tolist()])
