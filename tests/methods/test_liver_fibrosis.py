"""The liver-fibrosis pipeline: the shipped spec on numbers that are known, and its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.models.load import build_model
from kdgraph.passes.base import PASSES
from kdgraph.spec.training import Metric
from kdgraph.train import run
from kdgraph.train.data._load import train_loader
from kdgraph.train.data._open import open_data
from kdgraph.train.data._split import seeded
from kdgraph.train.data.fashion_mnist import FashionMnist
from kdgraph.train.metrics import build_metrics

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "specs" / "methods" / "liver_fibrosis.yaml"
PLAIN = ROOT / "benchmarks" / "methods" / "liver_fibrosis_plain.yaml"
SWAPPED = ("signals.share_a.scale=0.6", "signals.share_b.scale=-0.6", "signals.share_b.shift=0.6",
           "losses.soft.weight=0.4")  # fmt: skip


class Half(nn.Module):
    """Logits are one half of the image, times a number that can be trained."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, image: Tensor) -> Tensor:
        return image.chunk(2, 1)[0 if self.first else 1] * self.one


def compiled(classes: int, *more: str) -> kdgraph.DistillModule:
    """The losses and signals of the shipped spec over given logits."""
    return kdgraph.compile(
        SPEC,
        models={"student": Half(True), "teacher": Half(False)},
        set=[
            f"batch.image={{shape: [B, {2 * classes}], dtype: float64}}",
            f"batch.class_weights={{shape: [{classes}], dtype: float64}}",
            "batch.mix.dtype=float64",
            f"batch.label.classes={classes}",
            f"batch.label_b.classes={classes}",
            *more,
        ],
    )


def batch(
    student: Sequence[Sequence[float]], teacher: Sequence[Sequence[float]],
    a: Sequence[int], b: Sequence[int], mix: float, weights: Sequence[float],
) -> dict[str, Tensor]:  # fmt: skip
    image = torch.cat([torch.tensor(z, dtype=torch.float64) for z in (student, teacher)], 1)
    return {
        "image": image, "label": torch.tensor(a), "label_b": torch.tensor(b),
        "mix": torch.full((len(image),), mix, dtype=torch.float64),
        "class_weights": torch.tensor(weights, dtype=torch.float64),
    }  # fmt: skip


GOLDEN = batch(
    [[2, 0.5, -1], [0.1, 0.2, 0.3]], [[1, 1.5, -0.5], [0, 2, -1]],
    [0, 1], [2, 0], 0.7, [0.5, 1, 1.5],
)  # fmt: skip


def as_type(given: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in given.items()}


both_types = pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float64, 1e-8), (torch.float32, 1e-5)]
)


@both_types
def test_known_numbers(dtype: torch.dtype, near: float) -> None:
    out = compiled(3).to(dtype)(**as_type(GOLDEN, dtype))
    assert out.loss.dtype == dtype
    a, b, soft = (out.losses[name].item() for name in ("label_a", "label_b", "soft"))
    assert a == pytest.approx(0.954220485372, rel=near)
    assert b == pytest.approx(2.623818306673, rel=near)
    assert soft == pytest.approx(0.622704530398, rel=near)
    # both labels by their shares of the image, as the total holds them
    assert (out.loss.item() - 0.6 * soft) / 0.4 == pytest.approx(1.455099831762, rel=near)
    assert out.loss.item() == pytest.approx(0.955662650944, rel=near)


def test_alpha_on_the_other_side() -> None:
    out = compiled(3, *SWAPPED)(**GOLDEN)
    assert out.loss.item() == pytest.approx(1.122141711216, rel=1e-11)


def test_one_edge_with_soft_labels_is_another_loss() -> None:
    step = compiled(
        3, "losses.label_b=null", "signals=null", "losses.label_a.weight=0.4",
        "batch.label={shape: [B, 3], dtype: float64, classes: null}",
        "batch.label_b=null", "batch.mix=null",
    )  # fmt: skip
    eye = torch.eye(3, dtype=torch.float64)
    mixed = 0.7 * eye[GOLDEN["label"]] + 0.3 * eye[GOLDEN["label_b"]]
    given = {name: GOLDEN[name] for name in ("image", "class_weights")}
    out = step(**given, label=mixed)
    assert out.losses["label_a"].item() == pytest.approx(1.288111246822, rel=1e-11)


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def weighted(z: np.ndarray, label: np.ndarray, weights: np.ndarray) -> float:
    """The page's formula: the labels' part and the even part over the labels' weights."""
    cost, divisor = -log_softmax(z), weights[label].sum()
    hard = (weights[label] * cost[np.arange(len(z)), label]).sum() / divisor
    return float(0.9 * hard + 0.1 / z.shape[1] * (weights * cost).sum() / divisor)


@both_types
def test_other_numbers(dtype: torch.dtype, near: float) -> None:
    random = np.random.default_rng(7)
    student, teacher = 3 * random.standard_normal((2, 6, 5))
    a, b = random.integers(0, 5, (2, 6))
    weights, mix, tau = random.uniform(0.3, 2, 5), 0.35, 3
    p, q = (log_softmax(z / tau) for z in (teacher, student))
    soft = tau**2 * (np.exp(p) * (p - q)).sum(1).mean()
    labels = mix * weighted(student, a, weights) + (1 - mix) * weighted(student, b, weights)
    given = batch(student.tolist(), teacher.tolist(), a.tolist(), b.tolist(), mix, weights.tolist())
    loss = compiled(5).to(dtype)(**as_type(given, dtype)).loss
    assert loss.item() == pytest.approx(0.6 * soft + 0.4 * labels, rel=near)


def test_gradients_reach_the_student_alone() -> None:
    step = compiled(3)
    given = {name: value.clone() for name, value in GOLDEN.items()}
    given["class_weights"].requires_grad_()
    step(**given).loss.backward()
    assert step.student.one.grad.abs() > 0
    frozen = step.report.captures["teacher"].root
    assert all(p.grad is None for p in frozen.parameters())
    assert given["class_weights"].grad is None


def test_a_second_label_without_share_moves_nothing() -> None:
    step = compiled(3)
    found = []
    for label_b in ([2, 0], [1, 1]):
        step.zero_grad()
        given = {**GOLDEN, "mix": torch.ones(2).double(), "label_b": torch.tensor(label_b)}
        step(**given).loss.backward()
        found.append(step.student.one.grad.clone())
    assert torch.equal(*found)


def test_metrics_count_every_class_alike() -> None:
    metrics = build_metrics(
        (Metric.model_validate({"use": "accuracy", "average": "macro", "name": "balanced"}),
         Metric.model_validate({"use": "f1_score", "average": "macro"})), 3,
    )  # fmt: skip
    truth = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    said = torch.eye(3)[torch.tensor([0, 0, 0, 1, 1, 0, 2])]
    # recalls 3/4, 1/2, 1; F1 3/4, 1/2, 1
    assert float(metrics["balanced"](said, truth)) == pytest.approx(0.75)
    assert float(metrics["f1_score"](said, truth)) == pytest.approx(0.75)


def test_plain_differs_by_three_numbers() -> None:
    spec, plain = (kdgraph.load_spec(file) for file in (SPEC, PLAIN))
    assert (plain.batch, plain.models) == (spec.batch, spec.models)
    assert (plain.data, plain.train) == (spec.data, spec.train)
    back = ["signals.share_a.scale=0.4", "signals.share_b.scale=-0.4", "signals.share_b.shift=0.4",
            "losses.soft.tau=3", "losses.soft.weight=0.6"]  # fmt: skip
    again = kdgraph.load_spec(PLAIN, set=back)
    assert (again.losses, again.signals) == (spec.losses, spec.signals)


PAIRS = {"mobilenet_v3_small": 1_522_981, "resnet18": 11_179_077, "efficientnet_b0": 4_013_953}


def pair(name: str) -> Path:
    """The shipped spec of one of the paper's students."""
    return SPEC.with_suffix("") / f"{name}.yaml"


@pytest.mark.parametrize(("name", "parameters"), PAIRS.items())
def test_pairs_of_the_paper(name: str, parameters: int) -> None:
    for library in ("torchvision", "timm"):
        pytest.importorskip(library)
    spec, own = kdgraph.load_spec(SPEC), kdgraph.load_spec(pair(name))
    assert (own.batch, own.signals, own.losses) == (spec.batch, spec.signals, spec.losses)
    assert own.train == spec.train
    for model, count in (("teacher", 23_518_277), ("student", parameters)):
        found = own.models[model]
        assert found.source is not None
        net = build_model(found.source, found.args)
        assert sum(p.numel() for p in net.parameters()) == count


def test_no_pass_changes_the_numbers_of_a_pair() -> None:
    """In float64: batch norm of a few maps of one pixel magnifies what is rounded."""
    for library in ("torchvision", "timm"):
        pytest.importorskip(library)
    spec = kdgraph.load_spec(pair("mobilenet_v3_small"))
    wide = [f"batch.{name}.dtype=float64" for name in ("image", "mix", "class_weights")]
    models = {}
    for name, model in spec.models.items():
        assert model.source is not None
        models[name] = build_model(model.source, model.args).double()
    given = {
        "image": torch.randn(4, 3, 32, 32), "label": torch.arange(4), "mix": torch.full((4,), 0.3),
        "label_b": torch.arange(4).flip(0), "class_weights": torch.rand(5) + 0.5,
    }  # fmt: skip
    found = []
    for without in ([], [name for name, p in PASSES.items() if p.default]):
        step = kdgraph.compile(pair("mobilenet_v3_small"), models=models, without=without, set=wide)
        out = step(**as_type(given, torch.float64))
        step.zero_grad()
        out.loss.backward()
        found.append([out.loss, *(p.grad.clone() for p in step.parameters() if p.grad is not None)])
    assert len(found[0]) > 100
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-10)


@pytest.fixture(name="garments")
def _garments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in the place of the images, so that no package is needed."""
    image = torch.randint(256, (1200, 1, 28, 28), generator=seeded("g"), dtype=torch.uint8)
    monkeypatch.setattr(FashionMnist, "images", lambda *_: (image, torch.arange(1200) % 10))


SMALL = ("data.counts=[110, 44, 41, 45, 88]", "data.limit=null", "data.batch_size=32")


@pytest.mark.usefixtures("garments")
def test_batches_hold_what_the_losses_read() -> None:
    spec = kdgraph.load_spec(SPEC, set=SMALL)
    data, splits = open_data(spec)
    found = next(iter(train_loader(splits.train, data, seed=0)))
    assert set(found) == set(spec.batch)
    labels = splits.train.labels()
    assert labels is not None
    counts = labels.bincount()
    torch.testing.assert_close(found["class_weights"], len(labels) / (5 * counts))
    assert len(found["mix"].unique()) == 1


@pytest.mark.usefixtures("garments")
@pytest.mark.parametrize("file", [SPEC, PLAIN])
def test_it_trains(tmp_path: Path, file: Path) -> None:
    small = ["train.teacher.epochs=1", "models.teacher.source=cifar/resnet8", *SMALL]
    result = run(file, out=tmp_path, steps=2, set=small, device="cpu")
    assert list(result.runs[0].metrics) == ["balanced_accuracy", "macro_f1", "accuracy"]
    assert result.runs[0].latency is not None
    assert "no group is on two sides" in result.data


@pytest.mark.usefixtures("garments")
def test_a_student_of_the_paper_tells_its_size_and_time(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    small = ["train.teacher.epochs=1", "models.teacher.source=cifar/resnet8", *SMALL]
    result = run(pair("mobilenet_v3_small"), out=tmp_path, steps=2, set=small, device="cpu")
    (student,), (teacher,) = result.runs, result.teachers
    assert (student.steps, student.parameters) == (2, PAIRS["mobilenet_v3_small"])
    for found in (student, teacher):
        assert found.latency is not None
        assert found.latency > 0


def test_the_real_data_is_a_change_of_data_alone(tmp_path: Path) -> None:
    from PIL import Image

    for stage in range(5):
        folder = tmp_path / f"F{stage}"
        folder.mkdir()
        for case in range(8):
            for end in ("", "_aug1"):
                Image.new("RGB", (40, 36), (50 * stage,) * 3).save(
                    folder / f"p{stage}{case}{end}.png"
                )
    changes = ["use=imagefolder", f"path={tmp_path}", "groups=stem", "size=24", "limit=null",
               "workers=1", "batch_size=8"]  # fmt: skip
    spec = kdgraph.load_spec(SPEC, set=[f"data.{change}" for change in changes])
    opened, splits = open_data(spec)
    assert splits.note == "split by 40 groups, stratified by class: no group is on two sides"
    assert set(next(iter(train_loader(splits.train, opened, seed=0)))) == set(spec.batch)
