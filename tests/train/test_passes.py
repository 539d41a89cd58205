"""``evaluate: {passes: K}``: a model scored on the mean of several passes with dropout on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import kdgraph
from kdgraph.capture.taps import parse_tap
from kdgraph.train.learner import Examiner
from kdgraph.train.score import Score, find_score


def test_averaged_as_probabilities(make_spec: Any) -> None:
    spec = kdgraph.load_spec(make_spec(train={"evaluate": {"passes": 3}}))
    score = find_score(spec)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout(0.5))
    batch = {"image": torch.randn(6, 1, 8, 8), "label": torch.arange(6)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score.ready(model)
    torch.manual_seed(3)
    found = score.averaged(model, batch)
    torch.manual_seed(3)
    passes = [model(batch["image"]).softmax(1) for _ in range(3)]
    assert not torch.equal(passes[0], passes[1])
    torch.testing.assert_close(found.exp(), torch.stack(passes).mean(0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_averaged_over_classes_at_each_token() -> None:
    score = Score("m", "ids", parse_tap("output"), "label", 5, passes=4)
    model = nn.Sequential(nn.Embedding(7, 5), nn.Dropout(0.5))
    batch = {"ids": torch.arange(6).reshape(2, 3), "label": torch.ones(2, 3, dtype=torch.int64)}
    score.ready(model)
    torch.manual_seed(5)
    found = score.averaged(model, batch)
    torch.manual_seed(5)
    mean = torch.stack([model(batch["ids"]).softmax(2) for _ in range(4)]).mean(0)
    assert found.shape == (2, 5, 3)
    torch.testing.assert_close(found.exp(), mean.mT)


def test_the_same_numbers_are_drawn_every_time(
    make_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = kdgraph.load_spec(make_spec(train={"evaluate": {"passes": 2}}))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5))
    examiner = Examiner(model, spec, find_score(spec))
    kept: list[torch.Tensor] = []
    monkeypatch.setattr(Score, "update", lambda score, metric, given, batch: kept.append(given))
    batch = {"image": torch.randn(6, 1, 8, 8), "label": torch.arange(6)}
    examiner.on_validation_epoch_start()
    for seed, index in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(seed)
        examiner.validation_step(batch, index)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])  # each batch has draws of its own


def test_classes_are_needed(make_spec: Any) -> None:
    text = make_spec(train={"evaluate": {"passes": 3, "target": "image"}})
    with pytest.raises(kdgraph.KDGraphError, match="`passes` are averaged"):
        find_score(kdgraph.load_spec(text))
