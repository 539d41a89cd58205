"""CSKD: the loss of its program on numbers that are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.train import run
from kdgraph.train.data._open import open_data

SPECS = Path(__file__).parents[2] / "specs" / "methods"

TERMS = """
kdgraph: 1
name: cskd-terms
batch:
  f: {shape: [N, 3], dtype: float64}
  label: {shape: [N], dtype: int64, classes: 2}
  z_s: {shape: [B, 2], dtype: float64}
  z_t: {shape: [B, 4], dtype: float64}
models:
  student: {input: {features: f, logits: z_s}, taps: {f: "output[0]", z: "output[1]"}}
  teacher: {input: {features: f, logits: z_t}, taps: {z: "output[1]"}}
signals:
  chosen: {use: select_classes, of: teacher.z, classes: [2, 0]}
losses:
  soft: {use: soft_target, student: student.z, teacher: chosen, tau: 1, weight: 0.1}
  together: {use: intra_class_variance, student: student.f, target: label}
  within: {use: intra_class_variance, student: student.f, target: label, axis: feature}
  apart: {use: orthogonal_projection, student: student.f, target: label, variant: signed}
"""


class Given(nn.Module):
    """Hands features and logits on, times a number that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        return features * self.one, logits * self.one


def batch() -> dict[str, Tensor]:
    values = {
        "f": [[1.0, 2, 3], [3, 2, 1], [0, 0, 6], [2, 2, 2]],
        "z_s": [[0.5, -0.5], [0.1, 0.3]],
        "z_t": [[2.0, 9, 1, 0], [0, -3, 1, 3]],
    }
    tensors = {name: torch.tensor(v, dtype=torch.float64) for name, v in values.items()}
    return {**tensors, "label": torch.tensor([0, 0, 1, 1])}


@pytest.fixture(name="step", scope="module")
def _step() -> kdgraph.DistillModule:
    return kdgraph.compile(TERMS, models={"student": Given(), "teacher": Given()})


def test_known_terms(step: kdgraph.DistillModule) -> None:
    losses = step(**batch()).losses
    assert 0.1 * losses["soft"].item() == pytest.approx(0.0312132316739692, rel=1e-8)
    assert losses["within"].item() == pytest.approx(13.414213562373095, rel=1e-8)
    assert losses["together"].item() == pytest.approx(11.31370849898476, rel=1e-8)
    assert losses["apart"].item() == pytest.approx(0.7192677699804376, rel=1e-8)


def test_classes_that_were_not_chosen_do_not_matter(step: kdgraph.DistillModule) -> None:
    other = batch()
    other["z_t"][:, [1, 3]] = torch.tensor([[-50.0, 7], [30, 0]], dtype=torch.float64)
    assert torch.equal(step(**other).losses["soft"], step(**batch()).losses["soft"])


def test_the_new_labels_are_those_of_the_chosen_classes() -> None:
    """One number after the other would make 4 of 7, by way of 3."""
    spec = kdgraph.load_spec(SPECS / "cskd.yaml")
    digits = kdgraph.load_spec(SPECS / "cskd.yaml", set=["data.select_classes=null"])
    chosen = spec.signals["chosen"].classes  # type: ignore[attr-defined]
    assert spec.data is not None
    assert spec.data.select_classes == chosen == (4, 6, 2, 7, 3)
    (_, few), (_, whole) = open_data(spec), open_data(digits)
    old = whole.train.rows(range(len(whole.train)))
    new = few.train.rows(range(len(few.train)))
    kept = torch.isin(old["label"], torch.tensor(chosen))
    assert torch.equal(torch.tensor(chosen)[new["label"]], old["label"][kept])
    assert torch.equal(new["image"], old["image"][kept])


def test_it_trains(tmp_path: Path) -> None:
    small = ["train.teacher.epochs=1", "data.limit=128", "models.teacher.source=cifar/resnet8"]
    result = run(SPECS / "cskd.yaml", out=tmp_path, steps=2, set=small, device="cpu")
    assert result.runs[0].steps == 2
    assert result.teachers[0].name == "teacher"
