"""CCSKD: the shipped spec on numbers that are known, over models that hand on what they get."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import kdgraph
from kdgraph.models.load import build_model
from kdgraph.schedules.steps import Steps
from kdgraph.train import run

SPECS = Path(__file__).parents[2] / "specs" / "methods"
LAYERS = ("l1", "l2", "l3", "l4")

# The authors' 200 epochs. They count from 1, kdgraph from 0: their 61 is 60 here.
AUTHORS = [
    "losses.label.weight.epochs=[60]",
    "losses.selective.weight.epochs=[60]",
    *(f"losses.channel{n}.weight.epochs=[59, 159]" for n in range(1, 5)),
    "signals.fade.value.epochs=[29, 59, 89, 119, 149, 179]",
]
CODE = "losses.selective.variant=code"

dtypes = pytest.mark.parametrize(
    ("dtype", "rel"), [(torch.float64, 1e-8), (torch.float32, 1e-5)], ids=["float64", "float32"]
)


class Given(nn.Module):
    """Hands maps and logits on, times a number that can be trained."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, maps: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        return maps * self.one, logits * self.one


def compiled(
    *changes: str,
    dtype: torch.dtype = torch.float64,
    epoch: float | None = None,
    channels: tuple[int, int] = (2, 2),
) -> kdgraph.DistillModule:
    """Signals, links and losses as they ship, but for ``changes``; in eval mode.

    Every layer of a model is the same map. Numbers that a schedule moves are float32 in a step,
    which is 1e-8 or more away from 0.9 and the like. With ``epoch`` each stands as it is at that
    point, as a plain number, so that a float64 step is one to its last digits.
    """
    text: dict[str, Any] = yaml.safe_load((SPECS / "ccskd.yaml").read_text())
    number = str(dtype).removeprefix("torch.")
    sizes: dict[str, list[Any]] = {"z_s": ["B", 3], "z_t": ["B", 3]}
    sizes |= {"f_s": ["N", channels[0], "H", "W"], "f_t": ["N", channels[1], "H", "W"]}
    text["batch"] = {name: {"shape": size, "dtype": number} for name, size in sizes.items()}
    text["batch"]["label"] = {"shape": ["B"], "dtype": "int64", "classes": 3}
    for model, end in (("student", "s"), ("teacher", "t")):
        taps = {**dict.fromkeys(LAYERS, "output[0]"), "logits": "output[1]"}
        given = {"maps": f"f_{end}", "logits": f"z_{end}"}
        text["models"][model] = {"input": given, "taps": taps}
    spec = kdgraph.load_spec({k: v for k, v in text.items() if k not in ("data", "train")}, changes)
    if epoch is not None:
        spec = at(spec, epoch)
    step = kdgraph.compile(spec, models={name: Given(dtype) for name in text["models"]})
    return step.to(dtype).eval()


def at(spec: kdgraph.Spec, epoch: float) -> kdgraph.Spec:
    """The spec with its schedules stopped."""
    now = {
        name: {"weight": value.at(epoch=epoch, iteration=0)}
        for name, edge in spec.losses.items()
        if hasattr(value := edge.weight, "at")
    }
    losses = {name: edge.model_copy(update=now.get(name, {})) for name, edge in spec.losses.items()}
    fade = spec.signals["fade"].value.at(epoch=epoch, iteration=0)  # type: ignore[attr-defined]
    # a factor, in the place of a product with the signal `fade`
    trust = spec.signals["twice"].model_copy(update={"of": "twice", "scale": fade, "shift": 0.0})
    return spec.model_copy(update={"losses": losses, "signals": {**spec.signals, "trust": trust}})


def batch(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    values = {
        "f_s": maps([[0.0, 0], [3, 4], [6, 0]]),
        "f_t": maps([[0.0, 0], [1, 0], [0, 2]]),
        "z_s": [[0.5, 0.2, -0.1], [0.1, 0.3, 0]],
        "z_t": [[2.0, 1, 0], [0, 3, 1]],
    }
    tensors = {name: torch.tensor(v, dtype=dtype) for name, v in values.items()}
    return {**tensors, "label": torch.tensor([0, 2])}


def maps(means: list[list[float]]) -> list[Any]:
    """Two pixels with a mean that is known; no value is negative, so a ReLU changes none."""
    return [[[[2 * value, 0.0]] for value in row] for row in means]


def straight(step: kdgraph.DistillModule) -> kdgraph.DistillModule:
    """Connectors that hand on what they get: what is known is known of their results."""
    for module in step.adapters.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.fill_(1 - module.eps)
    return step


@pytest.fixture(name="step", scope="module")
def _step() -> kdgraph.DistillModule:
    return straight(compiled(*AUTHORS, CODE))


@dtypes
def test_known_terms(dtype: torch.dtype, rel: float) -> None:
    losses = straight(compiled(dtype=dtype))(**batch(dtype)).losses
    for n in range(1, 5):
        assert losses[f"channel{n}"].item() == pytest.approx(10, rel=rel)
        assert losses[f"relation{n}"].item() == pytest.approx(0.0630959261043495, rel=rel)


KNOWN = [  # epoch, the program's value, that of m KL
    (1, 2.001518217549080, 0.3525439818643),
    (61, 0.9953974043712479, 0.2855606253101),
    (95, 0.638757102261476, 0.2570045627791),
    (200, -0.03859686472290, 0.1873563262660),
]


@dtypes
@pytest.mark.parametrize(("epoch", "code", "clean"), KNOWN)
def test_selective_term(
    epoch: int, code: float, clean: float, dtype: torch.dtype, rel: float
) -> None:
    for variant, value in ((CODE, code), ("losses.selective.variant=clean", clean)):
        step = compiled(*AUTHORS, variant, dtype=dtype, epoch=epoch - 1)
        assert step(**batch(dtype)).losses["selective"].item() == pytest.approx(value, rel=rel)


def test_selective_gradient() -> None:
    given = batch()
    given["z_s"].requires_grad_()
    compiled(*AUTHORS, CODE, epoch=94)(**given).losses["selective"].backward()
    assert given["z_s"].grad is not None
    known = [-0.242856992894, 0.083781921119, 0.159075071775]
    assert given["z_s"].grad[0].tolist() == pytest.approx(known, abs=1e-11)


@pytest.mark.parametrize(("epoch", "code", "clean"), KNOWN)
def test_selective_term_under_the_schedule(
    step: kdgraph.DistillModule, epoch: int, code: float, clean: float
) -> None:
    """The scheduled number is float32; the last value is what is left of numbers near 1."""
    step.set_progress(epoch=epoch - 1)
    found = step(**batch()).losses["selective"].item()
    assert found == pytest.approx(code, rel=1e-7, abs=1e-6)


SCHEDULE = [(59, 0, 0, 6), (60, 0, 0, 5.4), (61, 1, 0.1, 5.4), (159, 1, 0.1, 5.4),
            (160, 1, 0.1, 4.86)]  # fmt: skip


@pytest.mark.parametrize(("epoch", "label", "selective", "channel"), SCHEDULE)
def test_schedule_with_exact_zeros(
    step: kdgraph.DistillModule, epoch: int, label: float, selective: float, channel: float
) -> None:
    step.set_progress(epoch=epoch - 1)
    out = step(**batch())
    weights = {"label": label, "selective": selective, "soft": 0.1}
    weights |= {f"channel{n}": channel for n in range(1, 5)}
    weights |= {f"relation{n}": 6 for n in range(1, 5)}
    expected = sum(weights[name] * value for name, value in out.losses.items())
    torch.testing.assert_close(out.loss, expected, rtol=1e-7, atol=0)


@dtypes
@pytest.mark.parametrize(("epoch", "a", "b", "c"), [(1, 0, 0, 6), (61, 1, 0.1, 5.4),
                                                    (200, 1, 0.1, 4.86)])  # fmt: skip
def test_the_total(
    epoch: int, a: float, b: float, c: float, dtype: torch.dtype, rel: float
) -> None:
    given = {name: value.numpy() for name, value in batch().items()}
    log_q, log_p = (log_softmax(given[n]) for n in ("z_s", "z_t"))
    label = -(log_q[0, 0] + log_q[1, 2]) / 2
    soft = (np.exp(log_p) * (log_p - log_q)).sum() / 2
    selective = {row[0]: row[2] for row in KNOWN}[epoch]
    total = a * label + b * selective + 0.1 * soft + 4 * (c * 10 + 6 * 0.0630959261043495)
    step = straight(compiled(*AUTHORS, dtype=dtype, epoch=epoch - 1))
    assert step(**batch(dtype)).loss.item() == pytest.approx(total, rel=rel)


def log_softmax(z: Any) -> Any:
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def test_the_shipped_points_are_the_authors_in_30_epochs() -> None:
    spec = kdgraph.load_spec(SPECS / "ccskd.yaml")
    whole = kdgraph.load_spec(SPECS / "ccskd.yaml", set=AUTHORS)
    for name, edge in whole.losses.items():
        own, weight = spec.losses[name].weight, edge.weight
        if isinstance(weight, Steps):
            assert isinstance(own, Steps)
            assert own.steps == weight.steps
            assert list(own.points) == [round(0.15 * point) for point in weight.points]
    fade = spec.signals["fade"].value  # type: ignore[attr-defined]
    assert fade.points == tuple(4.5 * n for n in range(1, 7))
    assert fade.steps == pytest.approx([0.9**n for n in range(7)], rel=1e-12)


def independent(given: dict[str, Tensor], step: kdgraph.DistillModule) -> float:
    """The shipped total at epoch 20 in numpy: pair by pair, triple by triple."""
    z = {name: value.numpy() for name, value in given.items()}
    log_q, log_p = log_softmax(z["z_s"]), log_softmax(z["z_t"])
    y, p = z["label"], np.exp(log_p)
    kl = (p * (log_p - log_q)).sum(1)
    m = (1 + (z["z_t"].argmax(1) == y)) * 0.6561  # 0.9**4: the fourth time was at 18
    total = -log_q[range(len(y)), y].mean() + 0.1 * (m * kl).mean() + 0.1 * kl.mean()
    for layer in LAYERS:
        conv = step.adapters.get_submodule(layer)[0][0].weight.detach().numpy()[..., 0, 0]  # type: ignore[index]
        mapped = np.einsum("oc,nchw->nohw", conv, z["f_s"]) / np.sqrt(1 + 1e-5)
        s, t = np.maximum(mapped, 0).mean((2, 3)), z["f_t"].mean((2, 3))
        total += 5.4 * ((s - t) ** 2).mean() + 6 * relation(s, t)
    return float(total)


def relation(s: Any, t: Any) -> float:
    number = len(s)
    pairs = list(itertools.permutations(range(number), 2))
    distances, angles = [], []
    for x in (s, t):
        d = {(i, j): np.linalg.norm(x[i] - x[j]) for i, j in pairs}
        mean = sum(d.values()) / len(d)
        distances.append({pair: value / mean for pair, value in d.items()})
        e = {(i, j): (x[j] - x[i]) / d[i, j] for i, j in pairs}
        triples = itertools.product(range(number), repeat=3)
        angles.append({(i, j, k): e[i, j] @ e[i, k] for i, j, k in triples if i not in (j, k)})

    def gap(one: dict[Any, Any], other: dict[Any, Any]) -> Any:
        gaps = [abs(one[key] - other[key]) for key in one]
        return sum(g * g / 2 if g < 1 else g - 0.5 for g in gaps)

    return float(gap(*distances) / number**2 + 2 * gap(*angles) / number**3)


def test_other_numbers() -> None:
    """Connectors as they start, from three channels to four; epoch 20 of the shipped 30."""
    random = torch.Generator().manual_seed(6)
    sizes = {"f_s": (5, 3, 2, 2), "f_t": (5, 4, 2, 2), "z_s": (6, 3), "z_t": (6, 3)}
    given = {n: torch.randn(s, generator=random, dtype=torch.float64) for n, s in sizes.items()}
    given["label"] = torch.tensor([0, 2, 1, 1, 0, 2])
    torch.manual_seed(0)
    step = compiled(epoch=20, channels=(3, 4))
    assert step(**given).loss.item() == pytest.approx(independent(given, step), rel=1e-10)


@pytest.mark.parametrize(
    ("edge", "reached", "connector"),
    [
        ("label", "z_s", None),
        ("selective", "z_s", None),
        ("soft", "z_s", None),
        *((f"channel{n}", "f_s", f"l{n}") for n in range(1, 5)),
        *((f"relation{n}", "f_s", f"l{n}") for n in range(1, 5)),
    ],
)
def test_gradients_go_where_the_method_says(
    step: kdgraph.DistillModule, edge: str, reached: str, connector: str | None
) -> None:
    step.zero_grad()
    leaves = {n: x.clone().requires_grad_() if x.is_floating_point() else x
              for n, x in batch().items()}  # fmt: skip
    step(**leaves).losses[edge].backward()
    found = {n for n, x in leaves.items() if x.grad is not None and bool(x.grad.any())}
    assert found - {"z_t", "f_t"} == {reached}  # what the frozen teacher reads is its own affair
    trained = {n for n, p in step.named_parameters() if p.grad is not None and bool(p.grad.any())}
    parts = {".".join(name.split(".")[:2]) for name in trained}
    # relations do not change with the scale, which is all that the model has to train
    assert parts - {"models.student"} == ({f"adapters.{connector}"} if connector else set())
    teacher = step.report.captures["teacher"].root
    assert all(p.grad is None for p in teacher.parameters())


def test_the_label_teaches_nothing_in_the_first_epochs(step: kdgraph.DistillModule) -> None:
    grads = []
    for label in ([0, 2], [1, 0]):
        step.set_progress(epoch=10)
        step.zero_grad()
        step(**{**batch(), "label": torch.tensor(label)}).loss.backward()
        grad = step.models["student"].one.grad
        assert isinstance(grad, Tensor)
        grads.append(grad.clone())
    assert torch.equal(*grads)


def test_the_teacher_in_train_mode_as_in_the_program() -> None:
    torch.manual_seed(0)
    spec = kdgraph.load_spec(SPECS / "ccskd.yaml", set=["models.teacher.batch_statistics=true"])
    step = kdgraph.compile(spec)
    given = {"image": torch.rand(5, 1, 8, 8), "label": torch.arange(5)}
    teacher = build_model("cifar/resnet20", {"in_channels": 1})
    teacher.load_state_dict(step.report.captures["teacher"].root.state_dict(), strict=False)
    with torch.no_grad():
        expected = teacher.train()(given["image"])
        evaluated = teacher.eval()(given["image"])
    found = step(**given).outputs["teacher.logits"]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, evaluated)


def test_it_trains(tmp_path: Path) -> None:
    small = ["train.teacher.epochs=1", "data.limit=128", "models.teacher.source=cifar/resnet8"]
    result = run(SPECS / "ccskd.yaml", out=tmp_path, steps=2, set=small, device="cpu")
    assert result.runs[0].steps == 2
    assert 0 <= result.runs[0].metrics["accuracy"] <= 1
