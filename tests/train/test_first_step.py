"""What the edges say at the start: a step on random weights, in either of two ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kdgraph
from kdgraph.train import explain, first_step

TEXT = """
kdgraph: 1
name: weighed
batch:
  image: {shape: [B, 3, 16, 16]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher: {source: cifar/resnet14, args: {width: 0.5}, taps: {logits: output}}
  student: {source: cifar/resnet8, args: {width: 0.25}, taps: {logits: output}}
signals:
  sure: {use: certainty, of: teacher.logits}
losses:
  label: {use: cross_entropy, student: student.logits, target: label, weight: 0.5}
  soft: {use: soft_target, student: student.logits, teacher: teacher.logits, weight: sure}
  later: {use: logit_mse, student: student.logits, teacher: teacher.logits,
          weight: {linear: [2, 0], epochs: [0, 9]}}
"""


def start(text: str = TEXT) -> dict[str, Any]:
    found: dict[str, Any] = explain(text)[0]["start"]
    return found


def test_both_ways_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    filled = start()["edges"]
    monkeypatch.setattr(first_step, "_filled", lambda *_: None)
    compiled = start()["edges"]
    for name, part in filled.items():
        assert part == pytest.approx(compiled[name], rel=1e-4)


def test_parts_are_those_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same models and the same batch, by ``kdgraph.compile``."""
    made: dict[str, Any] = {}
    random_batch, build = first_step._random_batch, first_step.build_untrained

    def kept(spec: kdgraph.Spec, rows: int) -> dict[str, torch.Tensor]:
        made["batch"] = random_batch(spec, rows)
        return made["batch"]

    def built(source: str, args: Any, **how: Any) -> torch.nn.Module:
        made[source] = build(source, args, **how)
        return made[source]

    monkeypatch.setattr(first_step, "_random_batch", kept)
    monkeypatch.setattr(first_step, "build_untrained", built)
    edges = start()["edges"]
    models = {"teacher": made["cifar/resnet14"], "student": made["cifar/resnet8"]}
    step = kdgraph.compile(TEXT, models=models, without=["freeze"])
    for norm in models["teacher"].modules():
        norm.training = isinstance(norm, torch.nn.BatchNorm2d)
    out = step(**made["batch"])
    assert sum(p["weighted"] for p in edges.values()) == pytest.approx(out.loss.item(), rel=1e-4)
    for name, value in out.losses.items():
        assert edges[name]["value"] == pytest.approx(value.item(), rel=1e-4)
    assert edges["later"]["weighted"] == pytest.approx(2 * edges["later"]["value"])
    assert edges["soft"]["weighted"] < edges["soft"]["value"]


def test_it_is_the_same_each_time_and_leaves_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    assert start() == start()
    assert torch.equal(torch.get_rng_state(), state)


def test_code_that_fails_on_random_numbers_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("tokens must be sorted")

    monkeypatch.setattr(first_step, "_random_batch", fails)
    assert start() == {"skipped": "a step on random numbers fails: tokens must be sorted"}


def test_a_deep_teacher_is_as_loud_as_a_trained_one() -> None:
    """Without weights that were trained its batch norms would let each block add to the last."""
    text = TEXT.replace("cifar/resnet14, args: {width: 0.5}", "cifar/resnet32, args: {width: 0.5}")
    assert start(text)["edges"]["later"]["value"] < 5
