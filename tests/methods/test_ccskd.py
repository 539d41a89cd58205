"""CCSKD: its terms on numbers that are known, under the authors' schedule over 200 epochs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.train import run

SPECS = Path(__file__).parents[2] / "specs" / "methods"

# The authors count epochs from 1, kdgraph from 0: their 61 is 60 here.
TERMS = """
kdgraph: 1
name: ccskd-terms
batch:
  f_s: {shape: [N, 2], dtype: float64}
  f_t: {shape: [N, 2], dtype: float64}
  z_s: {shape: [B, 3], dtype: float64}
  z_t: {shape: [B, 3], dtype: float64}
  label: {shape: [B], dtype: int64, classes: 3}
models:
  student: {input: {features: f_s, logits: z_s}, taps: {f: "output[0]", z: "output[1]"}}
  teacher: {input: {features: f_t, logits: z_t}, taps: {f: "output[0]", z: "output[1]"}}
signals:
  right: {use: correct, of: teacher.z, label: label}
  twice: {use: affine, of: right, shift: 1}
  fade:
    use: number
    value:
      steps: [1, 0.9, 0.81, 0.729, 0.6561, 0.59049, 0.531441]
      epochs: [29, 59, 89, 119, 149, 179]
  trust: {use: product, of: [twice, fade]}
losses:
  label:
    {use: cross_entropy, student: student.z, target: label, weight: {steps: [0, 1], epochs: [60]}}
  selective:
    use: selective_kl
    student: student.z
    teacher: teacher.z
    trust: trust
    variant: code
    weight: {steps: [0, 0.1], epochs: [60]}
  soft: {use: soft_target, student: student.z, teacher: teacher.z, tau: 1, weight: 0.1}
  channel:
    use: hint
    student: student.f
    teacher: teacher.f
    weight: {steps: [6, 5.4, 4.86], epochs: [59, 159]}
  distance: {use: relation, student: student.f, teacher: teacher.f, angle: 0, weight: 6}
  angle: {use: relation, student: student.f, teacher: teacher.f, distance: 0, angle: 1, weight: 12}
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
        "f_s": [[0.0, 0], [3, 4], [6, 0]],
        "f_t": [[0.0, 0], [1, 0], [0, 2]],
        "z_s": [[0.5, 0.2, -0.1], [0.1, 0.3, 0]],
        "z_t": [[2.0, 1, 0], [0, 3, 1]],
    }
    tensors = {name: torch.tensor(v, dtype=torch.float64) for name, v in values.items()}
    return {**tensors, "label": torch.tensor([0, 2])}


@pytest.fixture(name="step", scope="module")
def _step() -> kdgraph.DistillModule:
    return kdgraph.compile(TERMS, models={"student": Given(), "teacher": Given()})


def test_known_terms(step: kdgraph.DistillModule) -> None:
    losses = step(**batch()).losses
    assert losses["channel"].item() == pytest.approx(10, rel=1e-12)
    assert losses["distance"].item() == pytest.approx(0.0279368329695255, rel=1e-8)
    assert losses["angle"].item() == pytest.approx(0.017579546567412, rel=1e-8)


@pytest.mark.parametrize(
    ("epoch", "value"),
    [
        (1, 2.001518217549080),
        (61, 0.9953974043712479),
        (95, 0.638757102261476),
        (200, -0.03859686472290),
    ],
)
def test_selective_term_over_the_epochs(
    step: kdgraph.DistillModule, epoch: int, value: float
) -> None:
    step.set_progress(epoch=epoch - 1)
    # the schedule is a float32 number
    assert step(**batch()).losses["selective"].item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("epoch", "label", "selective", "channel"),
    [(59, 0, 0, 6), (60, 0, 0, 5.4), (61, 1, 0.1, 5.4), (159, 1, 0.1, 5.4), (160, 1, 0.1, 4.86)],
)
def test_schedule_with_exact_zeros(
    step: kdgraph.DistillModule, epoch: int, label: float, selective: float, channel: float
) -> None:
    step.set_progress(epoch=epoch - 1)
    out = step(**batch())
    weights = {"label": label, "selective": selective, "soft": 0.1, "channel": channel,
               "distance": 6, "angle": 12}  # fmt: skip
    expected = sum(weights[name] * value for name, value in out.losses.items())
    torch.testing.assert_close(out.loss, expected, rtol=1e-6, atol=0)


def test_the_label_teaches_nothing_in_the_first_epochs(step: kdgraph.DistillModule) -> None:
    grads = []
    for label in ([0, 2], [1, 0]):
        step.set_progress(epoch=10)
        step.zero_grad()
        step(**{**batch(), "label": torch.tensor(label)}).loss.backward()
        grad = next(step.parameters()).grad
        assert grad is not None
        grads.append(grad.clone())
    assert torch.equal(*grads)


def test_nothing_reaches_the_teacher(step: kdgraph.DistillModule) -> None:
    step.set_progress(epoch=100)
    step(**batch()).loss.backward()
    assert [name for name, _ in step.named_parameters()] == ["models.student.one"]


def test_it_trains(tmp_path: Path) -> None:
    small = ["train.teacher.epochs=1", "data.limit=128", "models.teacher.source=cifar/resnet8"]
    result = run(SPECS / "ccskd.yaml", out=tmp_path, steps=2, set=small, device="cpu")
    assert result.runs[0].steps == 2
    assert 0 <= result.runs[0].metrics["accuracy"] <= 1
