"""Cons-KD: the shipped spec on known numbers, who learns from which, and a short run."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import kdgraph
from kdgraph.train import run

SPECS = Path(__file__).parents[2] / "specs" / "methods"

# What padding holds must not matter, not even nan or inf to a gradient: see the method's page.
MASKED = [
    "signals.one={use: masked, of: student.logits, mask: valid}",
    "signals.two={use: masked, of: student_again.logits, mask: valid}",
    "signals.target={use: masked, of: teacher.logits, mask: valid}",
    *(f"losses.{edge}.student=one" for edge in ("soft", "agree")),
    *(f"losses.{edge}.teacher=target" for edge in ("soft", "soft_again")),
    "losses.soft_again.student=two",
    "losses.agree.other=two",
]
L2 = [
    *(
        f"losses.{edge}={{use: probability_mse, student: {model}.logits, teacher: teacher.logits, "
        "mask: valid, weight: 0.5}"
        for edge, model in (("soft", "student"), ("soft_again", "student_again"))
    ),
    "losses.agree.distance=l2",
]

INPUTS = {"student": "first", "student_again": "second", "teacher": "teaching"}
ONE = [(0.1, 0.5, -0.2), (0.3, 0.2, 0.1), (0.6, -0.1, 0.0)]
TWO = [(0.0, 0.4, -0.1), (0.2, 0.4, 0.0), (0.5, 0.0, 0.1)]
TEACHER = [(0.0, 2.0, -1.0), (1.0, 1.0, 0.0), (3.0, 0.0, 0.0)]


class Given(nn.Module):
    """Hands logits on, times a number that can be trained; ``frames`` it leaves to the spec."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        return features * self.one


def compiled(
    dtype: torch.dtype = torch.float64, *, set: Sequence[str] = (), classes: int = 3
) -> kdgraph.DistillModule:
    """Signals and losses as they ship, but for ``set``.

    The passes of the student read logits of their own, in the place of dropout of their own.
    """
    text: dict[str, Any] = yaml.safe_load((SPECS / "cons_kd.yaml").read_text())
    logits = {"shape": ["B", "F", classes], "dtype": str(dtype).removeprefix("torch.")}
    del text["batch"]["features"]
    text["batch"] = {**dict.fromkeys(INPUTS.values(), logits), **text["batch"]}
    text["batch"]["label"]["classes"] = classes
    for model, entry in INPUTS.items():
        kept = {k: v for k, v in text["models"][model].items() if k in ("taps", "same_as")}
        text["models"][model] = {**kept, "input": {"features": entry, "frames": "frames"}}
    models = {name: Given(dtype) for name in ("student", "teacher")}
    spec = {k: v for k, v in text.items() if k not in ("data", "train")}
    return kdgraph.compile(spec, models=models, set=set)


def single(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    logits = {"first": [ONE], "second": [TWO], "teaching": [TEACHER]}
    lengths = {"frames": [12], "label": [[1]], "label_length": [1]}  # four for each of the output
    return {
        **{name: torch.tensor(value, dtype=dtype) for name, value in logits.items()},
        **{name: torch.tensor(value) for name, value in lengths.items()},
    }


def two_utterances(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The second: the same teacher, the passes exchanged, two frames and two labels.

    Frames of the output are four of the input, the last of them perhaps fewer.
    """
    logits = {"first": [ONE, TWO], "second": [TWO, ONE], "teaching": [TEACHER, TEACHER]}
    lengths = {"frames": [9, 8], "label": [[1, 0], [2, 1]], "label_length": [1, 2]}
    return {
        **{name: torch.tensor(value, dtype=dtype) for name, value in logits.items()},
        **{name: torch.tensor(value) for name, value in lengths.items()},
    }


dtypes = pytest.mark.parametrize(
    ("dtype", "rel"), [(torch.float64, 1e-8), (torch.float32, 1e-5)], ids=["float64", "float32"]
)


@dtypes
def test_one_utterance(dtype: torch.dtype, rel: float) -> None:
    out = compiled(dtype)(**single(dtype))
    assert {name: value.item() for name, value in out.losses.items()} == {
        "ctc": pytest.approx(1.2113568853451507, rel=rel),
        "ctc_again": pytest.approx(1.2133126458951656, rel=rel),
        "soft": pytest.approx(0.26328950584003691, rel=rel),
        "soft_again": pytest.approx(0.30110418981643638, rel=rel),
        "agree": pytest.approx(0.0063741196744353, rel=rel),
    }
    assert out.loss.item() == pytest.approx(1.5009057331228301, rel=rel)


@dtypes
def test_means_over_utterances_and_over_all_frames(dtype: torch.dtype, rel: float) -> None:
    out = compiled(dtype)(**two_utterances(dtype))
    losses = {name: value.item() for name, value in out.losses.items()}
    assert losses["ctc"] == pytest.approx(1.7230257683475519, rel=rel)
    assert losses["ctc_again"] == pytest.approx(1.8942777688746008, rel=rel)
    soft = (losses["soft"] + losses["soft_again"]) / 2
    assert soft == pytest.approx(0.248155230204982, rel=rel)
    assert losses["agree"] == pytest.approx(0.00665495343698748, rel=rel)
    assert out.loss.item() == pytest.approx(2.0634619522530460, rel=rel)


@dtypes
def test_the_second_utterance_by_itself(dtype: torch.dtype, rel: float) -> None:
    both = two_utterances(dtype)
    losses = compiled(dtype)(**{name: value[1:] for name, value in both.items()}).losses
    assert losses["ctc"].item() == pytest.approx(2.2346946513499531, rel=rel)
    assert losses["ctc_again"].item() == pytest.approx(2.5752428918540359, rel=rel)


@dtypes
def test_squared_distances_of_one_utterance(dtype: torch.dtype, rel: float) -> None:
    losses = compiled(dtype, set=L2)(**single(dtype)).losses
    assert losses["soft"].item() == pytest.approx(0.17237760375616964, rel=rel)
    assert losses["soft_again"].item() == pytest.approx(0.2002415949342473, rel=rel)


def random_batch() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(3)
    names = ("first", "second", "teaching")
    logits = {n: torch.randn(3, 5, 4, generator=random, dtype=torch.float64) for n in names}
    label = torch.tensor([[1, 1, 0], [3, 2, 1], [2, 3, 2]])
    # the last has fewer frames than labels
    frames, length = torch.tensor([20, 13, 7]), torch.tensor([2, 3, 3])  # 5, 4, 2 of the output
    return {**logits, "frames": frames, "label": label, "label_length": length}


def output_frames(batch: dict[str, Tensor]) -> list[int]:
    return [math.ceil(frames / 4) for frames in batch["frames"].tolist()]


def independent(batch: dict[str, Tensor], distance: str) -> float:
    """The formula in numpy, with every path of every utterance counted out."""
    z = {n: batch[n].numpy() for n in ("first", "second", "teaching")}
    p = {n: np.exp(x) / np.exp(x).sum(2, keepdims=True) for n, x in z.items()}
    frames, lengths = output_frames(batch), batch["label_length"].tolist()
    value, count = 0.0, sum(frames)
    for b, (F, S) in enumerate(zip(frames, lengths, strict=True)):
        target = batch["label"][b, :S].tolist()
        for name in ("first", "second"):
            total = 0.0
            for path in itertools.product(range(4), repeat=F):
                if [k for k, _ in itertools.groupby(path) if k] == target:
                    total += math.prod(p[name][b, f, k] for f, k in enumerate(path))
            value += 0.5 * (-math.log(total) if total else 0.0) / len(frames)
        one, two, q = (p[n][b, :F] for n in ("first", "second", "teaching"))
        for own in (one, two):
            kl = (q * np.log(q / own)).sum()
            value += 0.5 * (kl if distance == "kl" else ((q - own) ** 2).sum()) / count
        both = ((one - two) * np.log(one / two)).sum() / 2
        value += (both if distance == "kl" else ((one - two) ** 2).sum()) / count
    return float(value)


@pytest.mark.parametrize("distance", ["kl", "l2"])
def test_other_numbers_by_counting_paths(distance: str) -> None:
    batch = random_batch()
    step = compiled(set=L2 if distance == "l2" else (), classes=4)
    assert step(**batch).loss.item() == pytest.approx(independent(batch, distance), rel=1e-10)


def gradients(step: kdgraph.DistillModule, batch: dict[str, Tensor], edge: str) -> dict[str, Any]:
    """The gradient of one edge at each pass's logits, and at the teacher's number."""
    leaves = {n: x.clone().requires_grad_() if x.is_floating_point() else x
              for n, x in batch.items()}  # fmt: skip
    step(**leaves).losses[edge].backward()
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.is_floating_point()}


@pytest.mark.parametrize(
    ("edge", "reached"),
    [
        ("ctc", {"first"}),
        ("ctc_again", {"second"}),
        ("soft", {"first"}),
        ("soft_again", {"second"}),
        ("agree", {"first", "second"}),
    ],
)
def test_gradients_go_where_the_method_says(edge: str, reached: set[str]) -> None:
    step, batch = compiled(classes=4), random_batch()
    found = gradients(step, batch, edge)
    assert {n for n, g in found.items() if g is not None and g.any() and n != "teaching"} == reached
    teacher = step.report.captures["teacher"].root
    assert all(p.grad is None for p in teacher.parameters())
    for name in reached:
        for b, length in enumerate(output_frames(batch)):
            assert not found[name][b, length:].any()


@pytest.mark.parametrize(
    ("changes", "odd_values"),
    [((), (1e30, -1e30)), (MASKED, (float("inf"), -float("inf"), float("nan"), 1e30))],
    ids=["shipped", "masked"],
)
def test_padding_moves_nothing(changes: Sequence[str], odd_values: Sequence[float]) -> None:
    step, batch = compiled(set=changes, classes=4), random_batch()
    plain = step(**batch).loss
    expected = {edge: gradients(step, batch, edge) for edge in ("ctc", "soft", "agree")}
    step.check_values = False  # which refuses nan wherever it is
    for odd in odd_values:
        other = {n: x.clone() for n, x in batch.items()}
        for name in ("first", "second", "teaching"):
            other[name][1, 4:] = odd
        other["label"][0, 2] = 3
        assert torch.equal(step(**other).loss, plain)
        for edge, grads in expected.items():
            found = gradients(step, other, edge)
            assert all(torch.equal(found[n], grads[n]) for n in ("first", "second")
                       if grads[n] is not None)  # fmt: skip


def speech_batch(spec: kdgraph.Spec) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(4)
    label = torch.randint(1, 29, (4, 3), generator=random)
    return {
        "features": torch.randn(4, 20, 40, generator=random),
        "frames": torch.tensor([20, 17, 12, 20]),
        "label": label,
        "label_length": torch.tensor([3, 2, 3, 1]),
    }


def test_without_dropout_the_passes_agree() -> None:
    spec = kdgraph.load_spec(SPECS / "cons_kd.yaml", set=["models.student.args.dropout=0"])
    step, batch = kdgraph.compile(spec), speech_batch(spec)
    out = step(**batch)
    losses = {name: value.item() for name, value in out.losses.items()}
    # equal rows of one matrix product may be rounded apart, depending on where they stand
    assert losses["agree"] < 1e-10
    assert losses["ctc_again"] == pytest.approx(losses["ctc"], rel=1e-6)
    assert losses["soft_again"] == pytest.approx(losses["soft"], rel=1e-6)
    assert out.loss.item() == pytest.approx(losses["ctc"] + losses["soft"], rel=1e-6)


def test_with_dropout_they_differ_and_the_teacher_does_not() -> None:
    spec = kdgraph.load_spec(SPECS / "cons_kd.yaml")
    step, batch = kdgraph.compile(spec), speech_batch(spec)
    first, second = step(**batch), step(**batch)
    assert first.losses["agree"] > 1e-4
    one, two = (first.outputs[f"{m}.logits"] for m in ("student", "student_again"))
    assert not torch.equal(one, two)
    assert torch.equal(first.outputs["teacher.logits"], second.outputs["teacher.logits"])
    step.eval()
    assert step(**batch).losses["agree"] < 1e-10


@pytest.mark.parametrize("spec", [
    SPECS / "cons_kd.yaml",
    SPECS.parents[1] / "benchmarks" / "methods" / "cons_kd_plain.yaml",
], ids=["method", "plain"])  # fmt: skip
def test_it_trains(spec: Path, tmp_path: Path, require_system: Any) -> None:
    require_system("espeak-ng", shutil.which("espeak-ng"))
    small = ["data.words=3", "data.voices=2", "data.batch_size=3", "models.teacher.args.width=8"]
    result = run(spec, out=tmp_path, steps=2, compare=True, set=small)
    for trained in (*result.runs, *result.alone, *result.teachers):
        assert trained.steps == 2
        assert trained.metrics["word_error_rate"] >= 0
        assert trained.metrics["char_error_rate"] >= 0
