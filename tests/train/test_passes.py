"""``evaluate: {passes: K}``: a model scored on the mean of several passes with dropout on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kdgraph
from kdgraph.capture.taps import parse_tap
from kdgraph.train import run
from kdgraph.train.score import Score, find_score
from kdgraph.train.scorer import Examiner


def test_averaged_as_probabilities(make_spec: Any) -> None:
    spec = kdgraph.load_spec(make_spec(train={"evaluate": {"passes": 3}}))
    score = find_score(spec)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout(0.5))
    batch = {"image": torch.randn(6, 1, 8, 8), "label": torch.arange(6)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score.ready(model, batch)
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
    score.ready(model, batch)
    torch.manual_seed(5)
    found = score.averaged(model, batch)
    torch.manual_seed(5)
    mean = torch.stack([model(batch["ids"]).softmax(2) for _ in range(4)]).mean(0)
    assert found.shape == (2, 5, 3)
    torch.testing.assert_close(found.exp(), mean.mT)


class Centred(nn.Module):
    """Takes a mean off: in training that of the batch, which it keeps by a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("usual", torch.full((10,), 0.25))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.usual = x.detach().mean(0)
        return x - self.usual


@pytest.mark.parametrize("passes", [None, 3])
def test_statistics_of_any_name_stand_still(make_spec: Any, passes: int | None) -> None:
    spec = kdgraph.load_spec(make_spec(train={"evaluate": {"passes": passes}}))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Centred(), nn.Dropout(0.5))
    examiner = Examiner(model, spec, find_score(spec))
    batch = {"image": torch.randn(6, 1, 8, 8), "label": torch.arange(6)}
    examiner.on_validation_epoch_start()
    examiner.validation_step(batch, 0)
    assert [m.training for m in model[2:]] == [False, passes is not None]
    examiner.on_validation_epoch_end()
    assert torch.equal(model.get_buffer("2.usual"), torch.full((10,), 0.25))
    assert all(m.training for m in model)


def test_the_same_numbers_are_drawn_every_time(
    make_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = kdgraph.load_spec(make_spec(train={"evaluate": {"passes": 2}}))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5))
    examiner = Examiner(model, spec, find_score(spec))
    kept: list[torch.Tensor] = []
    monkeypatch.setattr(Score, "update", lambda score, metric, given, batch: kept.append(given))
    batch = {"image": torch.randn(6, 1, 8, 8), "label": torch.arange(6)}
    for seed, index in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(seed)
        examiner.validation_step(batch, index)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])  # each batch has draws of its own


def test_classes_are_needed(make_spec: Any) -> None:
    text = make_spec(train={"evaluate": {"passes": 3, "target": "image"}})
    with pytest.raises(kdgraph.KDGraphError, match="`passes` are averaged"):
        find_score(kdgraph.load_spec(text))


def test_something_is_to_be_random(make_spec: Any, tmp_path: Path) -> None:
    text = make_spec(train={"evaluate": {"passes": 2}})
    text["models"]["teacher"]["args"]["drop"] = 0.0  # it may be without
    run(text, out=tmp_path / "one", steps=1, trust=["small_nets"], device="cpu")
    text["models"]["student"]["args"] = {"drop": 0.0}
    with pytest.raises(kdgraph.KDGraphError, match=r"KD409\]: 'student' is scored by 2 passes"):
        run(text, out=tmp_path / "two", steps=1, trust=["small_nets"], device="cpu")
    assert not list((tmp_path / "two").iterdir())  # no teacher was trained
