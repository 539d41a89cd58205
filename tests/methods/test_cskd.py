"""CSKD: the shipped spec on numbers that are known, over models that hand on what they get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import kdgraph
from kdgraph.train import run
from kdgraph.train.data._open import open_data

SPECS = Path(__file__).parents[2] / "specs" / "methods"
# The numbers that are known for the soft target are of two samples, those of the feature losses of
# four. The labels belong to both, so the two samples stand there twice: their mean stays.
CHOSEN = [2, 0]  # of four classes
FEATURES = [[1.0, 2, 3], [3, 2, 1], [0, 0, 6], [2, 2, 2]]
STUDENT = [[0.5, -0.5], [0.1, 0.3]] * 2
TEACHER = [[2.0, 9, 1, 0], [0, -3, 1, 3]] * 2
LABELS = [0, 0, 1, 1]

dtypes = pytest.mark.parametrize(
    ("dtype", "rel"), [(torch.float64, 1e-8), (torch.float32, 1e-5)], ids=["float64", "float32"]
)


class Given(nn.Module):
    """Hands features and logits on, times a number that can be trained."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        return features * self.one, logits * self.one


def compiled(
    *changes: str, dtype: torch.dtype = torch.float64, chosen: list[int] | None = None
) -> kdgraph.DistillModule:
    """Signals and losses as they ship, but for the chosen classes and ``changes``."""
    text: dict[str, Any] = yaml.safe_load((SPECS / "cskd.yaml").read_text())
    if chosen is None:
        text["signals"]["chosen"]["classes"] = chosen = CHOSEN
    number = str(dtype).removeprefix("torch.")
    width, known = (3, 4) if chosen is CHOSEN else (4, 10)
    sizes = {"f": width, "z_s": len(chosen), "z_t": known}
    text["batch"] = {name: {"shape": ["B", size], "dtype": number} for name, size in sizes.items()}
    text["batch"] |= {"label": {"shape": ["B"], "dtype": "int64", "classes": len(chosen)}}
    for model, logits in (("student", "z_s"), ("teacher", "z_t")):
        taps = {"features": "output[0]", "logits": "output[1]"}
        text["models"][model] = {"input": {"features": "f", "logits": logits}, "taps": taps}
    models = {name: Given(dtype) for name in text["models"]}
    kept = {k: v for k, v in text.items() if k not in ("data", "train")}
    return kdgraph.compile(kept, models=models, set=changes)


def batch(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    values = {"f": FEATURES, "z_s": STUDENT, "z_t": TEACHER}
    tensors = {name: torch.tensor(v, dtype=dtype) for name, v in values.items()}
    return {**tensors, "label": torch.tensor(LABELS)}


@pytest.fixture(name="step", scope="module")
def _step() -> kdgraph.DistillModule:
    return compiled()


@dtypes
def test_known_terms(dtype: torch.dtype, rel: float) -> None:
    losses = compiled(dtype=dtype)(**batch(dtype)).losses
    assert 0.1 * losses["soft"].item() == pytest.approx(0.0312132316739692, rel=rel)
    assert losses["together"].item() == pytest.approx(11.31370849898476, rel=rel)
    assert losses["apart"].item() == pytest.approx(0.7192677699804376, rel=rel)
    program = compiled("losses.together.axis=feature", dtype=dtype)(**batch(dtype)).losses
    assert program["together"].item() == pytest.approx(13.414213562373095, rel=rel)


@dtypes
@pytest.mark.parametrize("share", [0.2, 0.1])  # as shipped, and of the authors' example
def test_the_total(dtype: torch.dtype, rel: float, share: float) -> None:
    edges = ("soft", "together", "apart")
    changes = [f"losses.{edge}.weight={share}" for edge in edges if share != 0.2]
    out = compiled(*changes, dtype=dtype)(**batch(dtype))
    z = np.array(STUDENT)
    label = (np.log(np.exp(z).sum(1)) - z[range(4), LABELS]).mean()
    terms = 0.312132316739692 + 11.31370849898476 + 0.7192677699804376
    assert out.losses["label"].item() == pytest.approx(label, rel=rel)
    assert out.loss.item() == pytest.approx(label + share * terms, rel=rel)


def independent(given: dict[str, Tensor], chosen: list[int]) -> float:
    """The shipped total in numpy, pair by pair and class by class."""
    f, z, t = (given[n].numpy() for n in ("f", "z_s", "z_t"))
    y = given["label"].tolist()
    log_q = z - np.log(np.exp(z).sum(1, keepdims=True))
    p = np.exp(t[:, chosen]) / np.exp(t[:, chosen]).sum(1, keepdims=True)
    label = -np.mean([log_q[i, k] for i, k in enumerate(y)])
    soft = (p * (np.log(p) - log_q)).sum(1).mean()
    own = {c: f[[k == c for k in y]] for c in set(y)}
    together = sum(np.linalg.norm(x.var(0, ddof=1)) for x in own.values() if len(x) > 1)
    u = f / np.linalg.norm(f, axis=1, keepdims=True)
    pairs = [(i, j) for i in range(len(y)) for j in range(len(y)) if i != j]
    alike = [u[i] @ u[j] for i, j in pairs if y[i] == y[j]]
    apart = [u[i] @ u[j] for i, j in pairs if y[i] != y[j]]
    means = [sum(x) / (len(x) + 1e-6) for x in (alike, apart)]
    return float(label + 0.2 * (soft + together + (1 - means[0]) + 0.5 * means[1]))


def test_other_numbers() -> None:
    """Five of ten classes, in the shipped order; one class has one sample and another none.

    Features are fewer than classes, which only logits must not be.
    """
    random = torch.Generator().manual_seed(5)
    sizes = {"f": (9, 4), "z_s": (9, 5), "z_t": (9, 10)}
    given = {n: torch.randn(s, generator=random, dtype=torch.float64) for n, s in sizes.items()}
    given["label"] = torch.tensor([3, 0, 0, 4, 3, 3, 1, 0, 4])
    shipped = [4, 6, 2, 7, 3]
    found = compiled(chosen=shipped)(**given).loss.item()
    assert found == pytest.approx(independent(given, shipped), rel=1e-9)


def gradients(
    step: kdgraph.DistillModule, given: dict[str, Tensor], edge: str
) -> dict[str, Tensor]:
    """The gradient of one edge at what the models were given, where it is not zero."""
    leaves = {n: x.clone().requires_grad_() if x.is_floating_point() else x
              for n, x in given.items()}  # fmt: skip
    step(**leaves).losses[edge].backward()
    found = {n: leaf.grad for n, leaf in leaves.items() if leaf.is_floating_point()}
    return {n: grad for n, grad in found.items() if grad is not None and bool(grad.any())}


@pytest.mark.parametrize(
    ("edge", "reached"), [("label", "z_s"), ("soft", "z_s"), ("together", "f"), ("apart", "f")]
)
def test_gradients_go_where_the_method_says(
    step: kdgraph.DistillModule, edge: str, reached: str
) -> None:
    step.zero_grad()
    found = gradients(step, batch(), edge)
    assert found.keys() - {"z_t"} == {reached}  # what the frozen teacher reads is its own affair
    assert [name for name, _ in step.named_parameters()] == ["models.student.one"]
    teacher = step.report.captures["teacher"].root
    assert all(p.grad is None for p in teacher.parameters())


def test_the_target_rows(step: kdgraph.DistillModule) -> None:
    """The gradient at the logits is (softmax - target) / B, so the target can be read off it."""
    pull = gradients(step, batch(), "soft")["z_s"]
    target = batch()["z_s"].softmax(1) - len(STUDENT) * pull
    rows = [[0.26894142137, 0.73105857863], [0.73105857863, 0.26894142137]] * 2
    torch.testing.assert_close(target, target.new_tensor(rows), rtol=0, atol=1e-11)


def test_classes_that_were_not_chosen_do_not_matter(step: kdgraph.DistillModule) -> None:
    other = batch()
    other["z_t"][:, [1, 3]] = other["z_t"].new_tensor([[-50.0, 7], [30, 0]] * 2)
    assert torch.equal(step(**other).losses["soft"], step(**batch()).losses["soft"])


def test_a_sample_without_a_label_moves_no_loss_of_labels(step: kdgraph.DistillModule) -> None:
    expected = step(**batch()).losses
    given = {n: torch.cat([x, 3 * x[:1]]) for n, x in batch().items()}
    given["label"][4] = -100
    found = step(**given).losses
    for edge in ("label", "together", "apart"):
        torch.testing.assert_close(found[edge], expected[edge], rtol=1e-14, atol=0)


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


@pytest.mark.parametrize("place", ["signals.chosen.classes", "data.select_classes"])
def test_the_two_lists_are_held_together(place: str) -> None:
    spec = kdgraph.load_spec(SPECS / "cskd.yaml", set=[f"{place}=[4, 6, 2, 3, 7]"])
    with pytest.raises(kdgraph.KDGraphError, match="KD711"):
        open_data(spec)


@pytest.mark.parametrize("classes", ["[2, 0, 1]", "[1, 0, 2]"])
def test_a_teacher_of_the_chosen_classes_counts_them_from_0(classes: str) -> None:
    few = [
        "train.teacher.classes=null", "models.teacher.args.num_classes=3",
        "models.student.args.num_classes=3", "batch.label.classes=3",
        "data.select_classes=[2, 0, 1]",
    ]  # fmt: skip
    right = kdgraph.load_spec(SPECS / "cskd.yaml", set=[*few, "signals.chosen.classes=[0, 1, 2]"])
    open_data(right)
    wrong = kdgraph.load_spec(SPECS / "cskd.yaml", set=[*few, f"signals.chosen.classes={classes}"])
    with pytest.raises(kdgraph.KDGraphError, match=r"KD711(.*\n)*.*`classes: \[0, 1, 2\]`"):
        open_data(wrong)


def test_a_teacher_that_comes_trained_may_count_its_classes_otherwise() -> None:
    own = ["models.teacher.weights=elsewhere.pt", "signals.chosen.classes=[4, 6, 2, 3, 7]"]
    open_data(kdgraph.load_spec(SPECS / "cskd.yaml", set=own))


def test_it_trains(tmp_path: Path) -> None:
    small = ["train.teacher.epochs=1", "data.limit=128", "models.teacher.source=cifar/resnet8"]
    result = run(SPECS / "cskd.yaml", out=tmp_path, steps=2, set=small, device="cpu")
    assert result.runs[0].steps == 2
    assert result.teachers[0].name == "teacher"
