"""BookKD with its teachers at hand: every reading on known numbers, schedules, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import kdgraph
from kdgraph.book.column import Column
from kdgraph.signals.base import Signal
from kdgraph.train import run

SPEC = Path(__file__).parents[2] / "specs" / "methods" / "bookkd.yaml"
Shipped = Callable[..., kdgraph.DistillModule]  # conftest.py

AT_TWO = ["signals.ensemble.tau=2", "signals.mean.tau=2", "losses.soft.tau=2"]
EVEN = "signals.omega.exponent=0"
SURE = "signals.omega.exponent=1"
SHARP = "signals.sharp={use: probabilities, of: page, tau: %s}"
ENTROPY = "losses.entropy={use: confidence_penalty, student: student.logits, weight: %s}"
OFFSET = "models.student.offset"


def batch(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {
        "z_s": torch.tensor([[2, 0.5, -1], [0.1, 0.2, 0.3]], dtype=dtype),
        "z_r": torch.tensor([[1, 1.5, -0.5], [0, 2, -1]], dtype=dtype),
        "z_w": torch.tensor([[3, 0, 0], [1, 1, 0]], dtype=dtype),
        "label": torch.tensor([0, 1]),
    }


READINGS: list[tuple[list[str], float]] = [
    ([EVEN], 0.458561339296),
    ([SURE], 0.451449974104),
    ([EVEN, SHARP % 0.5, "losses.soft.target=sharp"], 0.619703818529),
    ([EVEN, SHARP % 2, "losses.soft.target=sharp"], 0.467244654530),
    ([EVEN, ENTROPY % 0.1], 0.372717745630),
]
NAMES = ["even", "by certainty", "sharper", "flatter", "entropy of the student"]


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("changes", "value"), READINGS, ids=NAMES)
def test_golden(
    shipped: Shipped, changes: list[str], value: float, dtype: torch.dtype, near: float
) -> None:
    step = shipped("bookkd", *AT_TWO, *changes, dtype=dtype)
    assert step(**batch(dtype)).loss.item() == pytest.approx(value, rel=near)


def test_golden_of_the_book_and_its_weights() -> None:
    book, certainty, omega = by_signals(2.0)
    want = [
        [0.507737534706, 0.312385686445, 0.179876778849],
        [0.310027366299, 0.488815886014, 0.201156747687],
    ]
    torch.testing.assert_close(book, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-11)
    assert (1 - certainty).tolist() == pytest.approx([0.9249680773, 0.942589180556], abs=1e-10)
    assert omega.tolist() == pytest.approx([1.133046952752, 0.866953047248], rel=1e-10)


def test_golden_of_a_book_in_half_precision() -> None:
    book = by_signals(2.0)[0]
    column = Column("book", (3,), "float16")
    (kept,) = column.decode(column.encode(book)).values()
    assert (kept.double() - book).abs().max().item() == pytest.approx(1.143e-4, rel=1e-3)


def by_signals(tau: float) -> tuple[Tensor, Tensor, Tensor]:
    """The shipped signals by hand, one behind the other: the book, its certainty, omega."""
    found = kdgraph.load_spec(SPEC).signals
    given = batch()

    def of(name: str, value: object, **steered: float) -> Tensor:
        signal = found[name]
        assert isinstance(signal, Signal)
        return signal.forward(of=value, **steered)

    mean = of("mean", of("ensemble", [given["z_r"], given["z_w"]], tau=tau), tau=tau)
    book = of("book", mean, by=0.1)
    certainty = of("certainty", of("page", book, tau=1.0))
    return book, certainty, of("omega", certainty, exponent=1.0)


def log_softmax(z: np.ndarray) -> np.ndarray:
    found: np.ndarray = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return found


def by_numpy(share: float, tau: float = 4.0, rho: float = 0.1) -> float:
    """The shipped loss at a point of training, from the formulas on the page of the method."""
    z_s, z_r, z_w = (batch()[k].numpy() for k in ("z_s", "z_r", "z_w"))
    mean = (np.exp(log_softmax(z_r / tau)) + np.exp(log_softmax(z_w / tau))) / 2
    book = (1 - rho) * mean + rho / 3
    sure = (1 + (book * np.log(book)).sum(1) / math.log(3)) ** share
    soft = tau**2 * (book * (np.log(book) - log_softmax(z_s / tau))).sum(1)
    hard = -((0.9 * np.eye(3)[[0, 1]] + 0.1 / 3) * log_softmax(z_s)).sum(1)
    return float((0.5 * hard + 0.5 * sure / sure.mean() * soft).mean())


def test_as_shipped_against_numpy(shipped: Shipped) -> None:
    """The weights fade from step to step until all are equal."""
    step = shipped("bookkd")
    for epoch in (0, 10, 12.25, 40, 50):
        step.set_progress(epoch=epoch)
        want = by_numpy(max(0.0, 1 - epoch / 40))
        assert step(**batch()).loss.item() == pytest.approx(want, rel=1e-6)


def test_a_row_of_the_book_stands_for_the_teachers() -> None:
    """The same edges over a batch entry of probabilities, and over one of the book's logits."""
    book = by_signals(4.0)[0]
    text = yaml.safe_load(SPEC.read_text())
    made = {name: text["signals"][name] for name in ("page", "certainty", "omega", "share")}
    logits = {"book": {"use": "probabilities", "of": "kept"}}
    for row, signals in ((book, made), (3 + book.log(), logits | made)):
        entry = "book" if signals is made else "kept"
        floats = {"shape": ["B", 3], "dtype": "float64"}
        label = {"shape": ["B"], "dtype": "int64", "classes": 3}
        spec = {
            "kdgraph": 1,
            "name": "learn",
            "batch": {"z_s": floats, entry: floats, "label": label},
            "models": {"student": {"input": "z_s", "taps": {"logits": "output"}}},
            "signals": signals,
            "losses": text["losses"],
        }
        student = torch.nn.Linear(3, 3, bias=False, dtype=torch.float64)
        torch.nn.init.eye_(student.weight)
        step = kdgraph.compile(spec, models={"student": student})
        given = {"z_s": batch()["z_s"], "label": batch()["label"], entry: row}
        assert step(**given).loss.item() == pytest.approx(by_numpy(1.0), rel=1e-8)


def test_a_page_that_sharpens_in_time(shipped: Shipped) -> None:
    moving = SHARP % "{linear: [2, 1], epochs: [0, 40]}"
    step = shipped("bookkd", EVEN, moving, "losses.soft.target=sharp")
    book = by_signals(4.0)[0].numpy()
    z_s = batch()["z_s"].numpy()
    for epoch, power in ((0, 0.5), (20, 1 / 1.5), (40, 1.0)):
        step.set_progress(epoch=epoch)
        b = book**power / (book**power).sum(1, keepdims=True)
        want = 16 * (b * (np.log(b) - log_softmax(z_s / 4))).sum(1).mean()
        assert step(**batch()).losses["soft"].item() == pytest.approx(want, rel=1e-6)


def test_a_term_of_the_students_entropy_fades(shipped: Shipped) -> None:
    step = shipped("bookkd", EVEN, ENTROPY % "{linear: [0.2, 0], epochs: [0, 40]}")
    log_p = log_softmax(batch()["z_s"].numpy())
    entropy = -(np.exp(log_p) * log_p).sum(1).mean()
    for epoch, beta in ((0, 0.2), (20, 0.1), (40, 0.0)):
        step.set_progress(epoch=epoch)
        want = by_numpy(0.0) - beta * entropy
        assert step(**batch()).loss.item() == pytest.approx(want, rel=1e-6)


def test_mixed_with_the_label_instead(shipped: Shipped) -> None:
    step = shipped("bookkd", EVEN, "signals.book.variant=label", "signals.book.label=label")
    z_s, z_r, z_w = (batch()[k].numpy() for k in ("z_s", "z_r", "z_w"))
    mean = (np.exp(log_softmax(z_r / 4)) + np.exp(log_softmax(z_w / 4))) / 2
    b = 0.9 * mean + 0.1 * np.eye(3)[[0, 1]]
    want = 16 * (b * (np.log(b) - log_softmax(z_s / 4))).sum(1).mean()
    assert step(**batch()).losses["soft"].item() == pytest.approx(want, rel=1e-8)


def test_only_the_student_learns(shipped: Shipped) -> None:
    """Teachers that are trained as well get nothing: book and weights are constants."""
    trained = [f"models.{name}.trainable=true" for name in ("resnet", "wide")]
    step = shipped("bookkd", *trained)
    step(**batch()).loss.backward()
    assert step.get_parameter(OFFSET).grad is not None
    assert all(step.get_parameter(f"models.{n}.offset").grad is None for n in ("resnet", "wide"))


def test_the_gradient_is_that_of_the_formula(shipped: Shipped) -> None:
    step = shipped("bookkd", *AT_TWO, SURE)
    step(**batch()).loss.backward()
    book, _, omega = (x.numpy() for x in by_signals(2.0))
    z_s = batch()["z_s"].numpy()
    hard = np.exp(log_softmax(z_s)) - (0.9 * np.eye(3)[[0, 1]] + 0.1 / 3)
    soft = 2 * omega[:, None] * (np.exp(log_softmax(z_s / 2)) - book)
    grad = step.get_parameter(OFFSET).grad
    assert grad is not None
    np.testing.assert_allclose(grad.numpy(), (0.5 * (hard + soft)).mean(0), rtol=1e-8)


def test_it_trains(tmp_path: Path) -> None:
    small = [
        "data.limit=50",
        "train.teacher.epochs=1",
        "models.resnet.source=cifar/resnet8",
        "models.wide.source=cifar/resnet8",
    ]
    result = run(SPEC, out=tmp_path, steps=2, set=small, device="cpu")
    assert result.runs[0].steps == 2
    assert 0 <= result.runs[0].metrics["accuracy"] <= 1
