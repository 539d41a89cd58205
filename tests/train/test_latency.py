"""The time of one prediction: measured where the run is, and the model is left as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kdgraph.train
from kdgraph.capture.taps import parse_tap
from kdgraph.train.latency import latency
from kdgraph.train.score import Score


class Watched(nn.Module):
    """Counts its calls, and how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.seen: set[tuple[int, bool, bool]] = set()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add((len(x), self.training, torch.is_inference_mode_enabled()))
        self.calls += 1
        result: torch.Tensor = self.linear(x)
        return result


def test_one_sample_in_eval_mode_and_back() -> None:
    model = Watched().train()
    score = Score("student", "x", parse_tap("output"), "label", 3)
    batch = {"x": torch.zeros(8, 4), "label": torch.zeros(8, dtype=torch.int64)}
    found = latency(model, score, batch, torch.device("cpu"))
    assert found > 0
    assert model.seen == {(1, False, True)}
    assert 4 <= model.calls <= 53
    assert model.training


def test_a_sample_in_the_precision_of_the_model() -> None:
    model = Watched().double()
    score = Score("student", "x", parse_tap("output"), "label", 3)
    batch = {"x": torch.zeros(1, 4), "label": torch.zeros(1, dtype=torch.int64)}
    assert latency(model, score, batch, torch.device("cpu")) > 0


def test_a_model_that_holds_nothing() -> None:
    score = Score("student", "x", parse_tap("output"), "label", 4)
    batch = {"x": torch.zeros(1, 4), "label": torch.zeros(1, dtype=torch.int64)}
    assert latency(nn.Identity(), score, batch, torch.device("cpu")) > 0


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_a_run_tells_it(precision: str, make_spec: Any, tmp_path: Path) -> None:
    result = kdgraph.train.run(
        make_spec(train={"precision": precision}),
        out=tmp_path,
        steps=1,
        device="cpu",
        trust=["small_nets"],
    )
    said = json.loads((tmp_path / "result.json").read_text())["runs"]
    assert {run["device"] for run in said} == {"cpu"}
    assert all(run["latency"] > 0 for run in said)
    assert "ms: median time of one sample, in a batch of one, cpu" in str(result)
