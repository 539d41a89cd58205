"""Uncertainty-based distillation: the signals and losses of the shipped spec on known numbers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import kdgraph
from kdgraph.train import run

SPECS = Path(__file__).parents[2] / "specs" / "methods"
SHIPPED = yaml.safe_load((SPECS / "uncertainty.yaml").read_text())


class Given(nn.Module):
    """Hands logits on, times a number that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.one


class Members(nn.Module):
    """Of [N, K, C] logits, the first for the first N / K rows, and so on: a pass for each member.

    That is how rows come that are repeated for K passes. With one pass it is the last member.
    """

    def __init__(self, passes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.passes = passes
        self.one = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, image: Tensor) -> Tensor:
        rows = torch.arange(image.shape[0])
        member = rows * self.passes // image.shape[0] if self.passes > 1 else 0 * rows - 1
        return image[rows, member] * self.one


def shipped(
    members: int,
    classes: int,
    *,
    dtype: torch.dtype = torch.float64,
    signals: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> kdgraph.DistillModule:
    """The shipped spec over images that hold the teacher's logits and then the student's."""
    spec = copy.deepcopy(SHIPPED)
    for model in spec["models"].values():
        del model["source"], model["args"]
    spec["models"]["teacher"] |= {"passes": members, "dropout": False}  # nothing is drawn here
    image = {"shape": ["B", members + 1, classes], "dtype": str(dtype).removeprefix("torch.")}
    spec["batch"] = {"image": image, "label": {**SHIPPED["batch"]["label"], "classes": classes}}
    for name, keys in signals.items():
        spec["signals"][name] |= keys
    models = {"teacher": Members(members, dtype), "student": Members(1, dtype)}
    return kdgraph.compile(spec, models=models)


def spec_of(classes: int, members: int) -> dict[str, Any]:
    """The shipped signals and losses over teachers that give each pass."""
    names = [f"pass{i}" for i in range(members)]
    spec: dict[str, Any] = {
        "kdgraph": 1,
        "name": "terms",
        "batch": {
            **{f"z_{n}": {"shape": ["B", classes], "dtype": "float64"} for n in names},
            "z_s": {"shape": ["B", classes], "dtype": "float64"},
            "label": {"shape": ["B"], "dtype": "int64", "classes": classes},
        },
        "models": {
            **{n: {"input": f"z_{n}", "taps": {"logits": "output"}} for n in names},
            "student": {"input": "z_s", "taps": {"logits": "output"}},
        },
        "signals": copy.deepcopy(SHIPPED["signals"]),
        "losses": copy.deepcopy(SHIPPED["losses"]),
    }
    passes = [f"{n}.logits" for n in names]
    for name in ("disagreement", "ambiguity"):
        spec["signals"][name]["of"] = passes
    spec["signals"]["target"]["of"] = passes
    return spec


def step_of(spec: dict[str, Any]) -> kdgraph.DistillModule:
    return kdgraph.compile(spec, models={n: Given() for n in spec["models"]})


def golden() -> dict[str, Tensor]:
    values = {"z_pass0": [[0.7, 0.2, 0.1]], "z_pass1": [[0.5, 0.3, 0.2]]}
    batch = {name: torch.tensor(v, dtype=torch.float64).log() for name, v in values.items()}
    batch["z_s"] = torch.tensor([[0.2, -0.1, 0.4]], dtype=torch.float64)
    return {**batch, "label": torch.tensor([0])}


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_definition(
    passes: Any, student: Any, label: Any, *, measure: str, direction: str
) -> dict[str, Any]:
    """Every term from logits [K, B, C] and [B, C], and the gradient of the student's."""
    p = softmax(passes)
    mean, classes = p.mean(0), p.shape[-1]
    if measure == "entropy":
        aleatoric = -(p * np.log(p)).sum(-1).mean(0)
        epistemic = -(mean * np.log(mean)).sum(-1) - aleatoric
        most = np.log(classes)
    else:
        aleatoric = (1 - (p**2).sum(-1)).mean(0)
        epistemic = ((p - mean) ** 2).sum(-1).mean(0)
        most = 1 - 1 / classes
    w = np.clip(1 - epistemic / most, 0, 1)[:, None]
    u = (aleatoric / most)[:, None]
    tau = 1 + 3 * (1 - u if direction == "sharper" else u)
    q = softmax(passes / tau).mean(0)
    one_hot = np.eye(classes)[label]
    plain, tempered = softmax(student), softmax(student / tau)
    cross = -(one_hot * np.log(plain)).sum(-1, keepdims=True)
    kl = (q * np.log(q / tempered)).sum(-1, keepdims=True)
    loss = ((1 - w) * cross + w * tau**2 * kl).mean()
    grad = ((1 - w) * (plain - one_hot) + w * tau * (tempered - q)) / len(label)
    return {"w": w, "tau": tau, "q": q, "loss": loss, "grad": grad, "cross": cross, "kl": kl}


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_known_loss(dtype: torch.dtype, near: float) -> None:
    given = golden()
    image = torch.stack([given[name] for name in ("z_pass0", "z_pass1", "z_s")], 1).to(dtype)
    step = shipped(2, 3, dtype=dtype)
    out = step(image=image, label=given["label"])
    assert out.loss.dtype == dtype
    assert out.loss.item() == pytest.approx(0.2292871884101039, rel=near)
    assert out.losses["label"].item() == pytest.approx(1.0859393176684558, rel=near)
    # the edge unweighted: tau**2 KL
    kl = 1.4993841064326594**2 * 0.0942383442486418
    assert out.losses["soft"].item() == pytest.approx(kl, rel=near)
    out.loss.backward()
    assert step.student.get_parameter("one").grad is not None
    teacher = step.report.captures["teacher"].root
    assert all(p.grad is None for p in teacher.parameters())


def test_the_definitions_give_the_known_values() -> None:
    """So that what follows compares with something that is right."""
    b = golden()
    logits = np.stack([b["z_pass0"].numpy(), b["z_pass1"].numpy()])
    found = by_definition(logits, b["z_s"].numpy(), [0], measure="entropy", direction="sharper")
    assert found["w"].item() == pytest.approx(0.9800646877935022, rel=1e-8)
    assert found["tau"].item() == pytest.approx(1.4993841064326594, rel=1e-8)
    assert found["kl"].item() == pytest.approx(0.0942383442486418, rel=1e-8)
    np.testing.assert_allclose(
        found["q"][0], [0.514774564029, 0.284817040195, 0.200408395776], 1e-8
    )


@pytest.mark.parametrize("measure", ["entropy", "variance"])
@pytest.mark.parametrize("direction", ["sharper", "softer"])
def test_loss_and_gradient_by_definition(measure: str, direction: str) -> None:
    """Each row of the batch has members of its own."""
    random = np.random.default_rng(5)
    passes, student = random.normal(size=(4, 6, 5)) * 2, random.normal(size=(6, 5)) * 2
    label = random.integers(0, 5, 6)
    keys: dict[str, dict[str, Any]] = {
        name: {"measure": measure} for name in ("disagreement", "ambiguity")
    }
    if direction == "softer":
        keys["tau"] = {"scale": 3, "shift": 1}
    z_s = torch.from_numpy(student).requires_grad_()
    image = torch.cat([torch.from_numpy(passes), z_s.unsqueeze(0)]).transpose(0, 1)
    out = shipped(4, 5, signals=keys)(image=image, label=torch.from_numpy(label))
    (grad,) = torch.autograd.grad(out.loss, z_s)
    wanted = by_definition(passes, student, label, measure=measure, direction=direction)
    assert out.loss.item() == pytest.approx(wanted["loss"], rel=1e-8)
    np.testing.assert_allclose(grad.numpy(), wanted["grad"], rtol=1e-8, atol=1e-14)


def test_passes_that_agree_leave_the_label_out() -> None:
    """w is exactly 1: the label neither costs nor pulls."""
    batch = golden()
    batch["z_pass1"] = batch["z_pass0"].clone()
    step = step_of(spec_of(3, 2))
    grads = []
    for label in (0, 2):
        z_s = batch["z_s"].clone().requires_grad_()
        out = step(**{**batch, "z_s": z_s, "label": torch.tensor([label])})
        grads.append(torch.autograd.grad(out.loss, z_s)[0])
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-14)


def test_no_gradient_into_a_teacher_that_learns_too() -> None:
    spec = spec_of(3, 2)
    for name in ("pass0", "pass1"):
        spec["models"][name]["trainable"] = True
    step = step_of(spec)
    step(**golden()).loss.backward()
    grads = {name: p.grad for name, p in step.named_parameters()}
    assert grads["models.student.one"] is not None
    for name in ("pass0", "pass1"):
        assert grads[f"models.{name}.one"] is None


def test_the_shipped_spec_by_hand() -> None:
    """Ten passes over the teacher in train mode with its batch norms in eval, the same seed."""
    torch.manual_seed(0)
    step = kdgraph.compile(SPECS / "uncertainty.yaml").eval()  # no dropout in the student
    teacher = copy.deepcopy(step.report.captures["teacher"].root)
    before = copy.deepcopy(teacher.state_dict())
    image, label = torch.randn(4, 1, 8, 8), torch.tensor([3, 1, 4, 1])
    torch.manual_seed(7)
    out = step(image=image, label=label)
    torch.manual_seed(7)
    with torch.no_grad():
        passes = teacher(image.repeat(10, 1, 1, 1)).unflatten(0, (10, 4))
        student = step.student(image)
    assert passes.std(0).min() > 0
    wanted = by_definition(
        passes.double().numpy(), student.double().numpy(), label.numpy(),
        measure="entropy", direction="sharper",
    )  # fmt: skip
    assert out.loss.item() == pytest.approx(wanted["loss"], rel=1e-4)
    out.loss.backward()
    for name, value in step.report.captures["teacher"].root.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("spec", ["specs/methods", "benchmarks/methods"])
def test_it_trains(spec: str, tmp_path: Path) -> None:
    name = "uncertainty.yaml" if spec.startswith("specs") else "uncertainty_plain.yaml"
    small = ["train.teacher.epochs=1", "data.limit=128", "models.teacher.source=cifar/resnet8"]
    small += ["train.evaluate.passes=2"]
    path = SPECS.parents[1] / spec / name
    result = run(path, out=tmp_path, steps=2, set=small, device="cpu")
    assert result.runs[0].steps == 2
    assert 0 <= result.runs[0].metrics["accuracy"] <= 1
