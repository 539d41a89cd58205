"""Metrics over sequences and maps: places without a label move nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.capture.taps import parse_tap
from kdgraph.spec.training import Metric
from kdgraph.train.derive import student_alone
from kdgraph.train.metrics import build_metrics, rises
from kdgraph.train.score import Score, find_score

WANTED = (Metric(use="accuracy"), Metric(use="perplexity"), Metric(use="calibration_error"))
SCORE = Score("student", "tokens", parse_tap("output"), "label", 5)


def scored(logits: Tensor, label: Tensor, score: Score = SCORE) -> dict[str, float]:
    """What the metrics say of batches of two rows."""
    metrics = build_metrics(WANTED, 5)
    for rows in torch.arange(len(label)).split(2):
        batch = {"tokens": logits[rows], "label": label[rows]}
        prediction = score.predict(nn.Identity(), batch)
        for metric in metrics.values():
            score.update(metric, prediction, batch)
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def by_numpy(logits: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Of [N, K] and [N], each place known."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    right = p.argmax(1) == label
    error = 0.0
    for at in range(15):  # bins (at / 15, (at + 1) / 15]
        within = (p.max(1) > at / 15) & (p.max(1) <= (at + 1) / 15)
        if within.any():
            error += within.mean() * abs(right[within].mean() - p.max(1)[within].mean())
    return {
        "accuracy": right.mean(),
        "perplexity": math.exp(-np.log(p[np.arange(len(label)), label]).mean()),
        "calibration_error": error,
    }


def test_sequences_are_scored_by_token() -> None:
    logits, label = torch.randn(4, 7, 5) * 3, torch.randint(0, 5, (4, 7))
    expected = by_numpy(logits.flatten(0, 1).double().numpy(), label.flatten().numpy())
    assert scored(logits, label) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", ["tokens", "vectors", "maps"])
@pytest.mark.parametrize("ignored", [-100, 255])
def test_places_without_a_label_move_nothing(form: str, ignored: int) -> None:
    logits, label = torch.randn(40, 5) * 3, torch.randint(0, 5, (40,))
    known = torch.rand(40) < 0.7
    expected = by_numpy(logits[known].double().numpy(), label[known].numpy())
    label = label.where(known, ignored)
    logits[~known] = math.nan
    if form == "tokens":
        logits, label = logits.view(4, 10, 5), label.view(4, 10)
    if form == "maps":
        logits, label = logits.view(4, 2, 5, 5).movedim(3, 1), label.view(4, 2, 5)
    score = Score("student", "tokens", parse_tap("output"), "label", 5, ignored)
    assert scored(logits, label, score) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_any_label_counts_nothing() -> None:
    logits, label = torch.randn(4, 3, 5), torch.randint(0, 5, (4, 3))
    label[2:] = -100
    assert scored(logits, label) == scored(logits[:2], label[:2])


def test_less_perplexity_is_better() -> None:
    metrics = build_metrics(WANTED, 5)
    assert not rises(metrics, "perplexity")
    assert rises(metrics, "accuracy")


def test_even_predictions_have_the_perplexity_of_the_vocabulary() -> None:
    found = scored(torch.zeros(2, 3, 5), torch.randint(0, 5, (2, 3)))
    assert found["perplexity"] == pytest.approx(5)


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([{"use": "cross_entropy"}], -100),
        ([{"use": "cross_entropy", "ignore_index": 255}], 255),
        ([{"use": "cross_entropy", "ignore_index": 255}] * 2, 255),
    ],
)
def test_what_is_ignored_follows_from_the_spec(
    make_spec: Any, edges: list[dict[str, Any]], expected: int
) -> None:
    text = make_spec()
    soft = text["losses"]["soft"]
    sides = {"student": "student.logits", "target": "label"}
    text["losses"] = {f"edge{i}": {**sides, **keys} for i, keys in enumerate(edges)}
    spec = kdgraph.load_spec(text)
    assert find_score(spec).ignore_index == expected
    text["losses"] = {"soft": soft}
    text["signals"] = {"known": {"use": "labelled", "of": "label", "ignore_index": 9}}
    (edge,) = student_alone(kdgraph.load_spec(text)).losses.values()
    assert edge.ignore_index == 9
