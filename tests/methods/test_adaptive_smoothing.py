"""Adaptive label smoothing: the shipped signals and loss on numbers that are known."""

from __future__ import annotations

import copy
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
from kdgraph.train.derive import student_alone

SPEC = Path(__file__).parents[2] / "specs" / "methods" / "adaptive_smoothing.yaml"
PLAIN = Path(__file__).parents[2] / "benchmarks" / "methods" / "adaptive_smoothing_plain.yaml"
SHIPPED = yaml.safe_load(SPEC.read_text())

Z_S = [[2, 0.5, -1], [0.1, 0.2, 0.3]]
Z_T = [[1, 1.5, -0.5], [0, 2, -1]]
LABEL = [0, 1]
IGNORED = -100

# of token 0's own loss with respect to its logits
DETACHED = [0.068611437691, -0.073987867138, 0.005376429447]
ATTACHED = [0.366161966782, -0.269482659181, -0.096679307602]


class Words(nn.Module):
    """Each token has logits of its own: ``rows``."""

    def __init__(self, rows: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows = nn.Embedding.from_pretrained(torch.tensor(rows, dtype=dtype), freeze=False)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.rows(tokens)
        return found


def compiled(
    now: Any = Z_S,
    past: Any = Z_T,
    *,
    epoch: float = 18,
    dtype: torch.dtype = torch.float64,
    losses: Any = MappingProxyType({}),
    **signals: dict[str, Any],
) -> kdgraph.DistillModule:
    """The shipped step over a student that says ``now`` and was best when it said ``past``."""
    spec = {
        "kdgraph": 1,
        "name": "golden",
        "batch": copy.deepcopy(SHIPPED["batch"]),
        "models": copy.deepcopy(SHIPPED["models"]),
        "signals": copy.deepcopy(SHIPPED["signals"]),
        "losses": {**copy.deepcopy(SHIPPED["losses"]), **losses},
    }
    del spec["models"]["student"]["source"], spec["models"]["student"]["args"]
    spec["batch"]["label"]["classes"] = len(now[0])
    for name, keys in signals.items():
        spec["signals"][name] = {**spec["signals"].get(name, {}), **keys}
    student = Words(past, dtype)
    step = kdgraph.compile(spec, models={"student": student})
    with torch.no_grad():
        student.rows.weight.copy_(torch.tensor(now, dtype=dtype))
    step.set_progress(epoch=epoch)
    return step


def one_step(
    step: kdgraph.DistillModule, label: Any = (LABEL,), tokens: Any = None
) -> tuple[float, Tensor]:
    """The loss of a batch, and its gradient with respect to each token's logits."""
    label = torch.tensor(label)
    if tokens is None:
        tokens = torch.arange(label.numel()).view(label.shape)
    step.zero_grad()
    loss = step(tokens=torch.as_tensor(tokens), label=label).loss
    loss.backward()
    grad = step.student.get_parameter("rows.weight").grad
    assert grad is not None
    return loss.item(), grad


both_types = pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float64, 1e-8), (torch.float32, 1e-5)]
)


@both_types
def test_golden_losses(dtype: torch.dtype, near: float) -> None:
    step = compiled(dtype=dtype)
    assert one_step(step)[0] == pytest.approx(0.909200906283, rel=near)
    assert one_step(step, [[0, IGNORED]])[0] == pytest.approx(0.716437117046, rel=near)
    assert one_step(step, [[IGNORED, 1]])[0] == pytest.approx(1.101964695519, rel=near)


@both_types
@pytest.mark.parametrize(("attached", "expected"), [(False, DETACHED), (True, ATTACHED)])
def test_golden_gradients(
    dtype: torch.dtype, near: float, attached: bool, expected: list[float]
) -> None:
    step = compiled(dtype=dtype, certainty={"attached": attached})
    _, grad = one_step(step, [[0, IGNORED]])
    assert grad[0].tolist() == pytest.approx(expected, rel=near)
    assert not grad[1].any()


def test_a_second_edge_over_the_same_logits_cuts_no_gradient() -> None:
    """Losses that are computed together still pass the gradient of a target on."""
    more = {
        "use": "cross_entropy", "student": "student.logits", "target": "label", "weight": 0
    }  # fmt: skip
    step = compiled(losses={"more": more}, certainty={"attached": True})
    assert any(record.name == "fuse_losses" and record.did for record in step.report.records)
    _, grad = one_step(step, [[0, IGNORED]])
    assert grad[0].tolist() == pytest.approx(ATTACHED, rel=1e-8)


def by_numpy(z: np.ndarray, past: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss and detached gradient of [N, K], from the formulas, token by token."""
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (z, past))
    alpha = 1 + (p * np.log(p)).sum(1, keepdims=True) / np.log(z.shape[1])
    target = (1 - alpha) * np.eye(z.shape[1])[label] + alpha * q
    return -(target * np.log(p)).sum(1).mean(), (p - target) / len(z)


def test_own_golden() -> None:
    z = np.array([[0.4, -2, 1.1, 0.3], [3, 0, 0, -1], [0.2, 0.1, 0, -0.4], [-1, 1, -1, 1]])
    past = np.array([[1, 0, 2, -1], [0, 0, 2, 0], [0.5, 0.1, -0.3, 0], [2, -2, 0, 0.5]])
    label = np.array([2, 0, 3, 1])
    value, slope = by_numpy(z, past, label)
    loss, grad = one_step(
        compiled(z.tolist(), past.tolist()), [label.tolist()[:2], label.tolist()[2:]]
    )
    assert loss == pytest.approx(value, rel=1e-8)
    np.testing.assert_allclose(grad.numpy(), slope, rtol=1e-8)


def test_shrinks_the_gradient_of_the_gold_token_as_derived() -> None:
    """By ``1 - alpha (1 - q_y) / (1 - p_y)`` compared with cross-entropy."""
    _, grad = one_step(compiled(), [[0, IGNORED]])
    p, q = (torch.tensor(z[0], dtype=torch.float64).softmax(0) for z in (Z_S, Z_T))
    ratio = 1 - 0.434209310154 * (1 - q[0]) / (1 - p[0])
    assert grad[0, 0].item() == pytest.approx((ratio * (p[0] - 1)).item(), rel=1e-8)


@pytest.mark.parametrize("epoch", [0, 1, 4.99])
def test_training_begins_as_plain_cross_entropy(epoch: float) -> None:
    loss, grad = one_step(compiled(epoch=epoch))
    assert loss == pytest.approx(0.671627072443, rel=1e-8)
    p = torch.tensor(Z_S, dtype=torch.float64).softmax(1)
    torch.testing.assert_close(grad, (p - torch.eye(3)[LABEL]) / 2)


def test_a_uniform_prior_by_temperature() -> None:
    """The alternative before the first snapshot: smooth towards no class in particular."""
    step = compiled(target={"tau": {"steps": [1e9, 1], "epochs": [1]}}, ready={"value": 1})
    assert one_step(step)[0] == pytest.approx(0.909200906283, rel=1e-8)
    step.set_progress(epoch=0)
    value, _ = by_numpy(np.array(Z_S), np.zeros((2, 3)), np.array(LABEL))
    assert one_step(step)[0] == pytest.approx(value, rel=1e-8)


def test_an_even_student_is_not_smoothed() -> None:
    loss, grad = one_step(compiled([[0.7] * 3] * 2), [[0, IGNORED]])
    assert loss == pytest.approx(np.log(3))
    assert grad[0].tolist() == pytest.approx([-2 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("attached", [False, True])
def test_pad_positions_move_nothing(attached: bool) -> None:
    rows, past = [*Z_S, [9, -9, 40]], [*Z_T, [-30, 2, 5]]
    step = compiled(rows, past, certainty={"attached": attached})
    expected = one_step(step, [LABEL], [[0, 1]])
    padded = one_step(step, [[0, 1, IGNORED, IGNORED], [IGNORED] * 4], [[0, 1, 2, 2], [2] * 4])
    assert padded[0] == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(padded[1], expected[1])
    assert not padded[1][2].any()
    nothing, grad = one_step(step, [[IGNORED] * 2], [[0, 2]])
    assert nothing == 0
    assert not grad.any()


def test_a_padded_vocabulary() -> None:
    rows, past = ([[*row, -float("inf"), -float("inf")] for row in z] for z in (Z_S, Z_T))
    loss, grad = one_step(compiled(rows, past, certainty={"classes": 3}), [[0, IGNORED]])
    assert loss == pytest.approx(0.716437117046, rel=1e-8)
    assert grad[0].tolist() == pytest.approx([*DETACHED, 0, 0], rel=1e-8)


def test_a_clamp_bounds_the_smoothing() -> None:
    bounded = {"use": "affine", "of": "certainty", "clamp": [0, 0.1]}
    step = compiled(alpha={"of": ["bounded", "ready"]}, bounded=bounded)
    p, q = (torch.tensor(z[0], dtype=torch.float64).softmax(0) for z in (Z_S, Z_T))
    expected = -(0.9 * p[0].log() + 0.1 * (q * p.log()).sum())
    assert one_step(step, [[0, IGNORED]])[0] == pytest.approx(expected.item(), rel=1e-8)


def test_nothing_reaches_the_past() -> None:
    step = compiled(certainty={"attached": True})
    names = [name for name, _ in step.named_parameters()]
    assert len(names) == 1
    outputs = step(tokens=torch.tensor([[0, 1]]), label=torch.tensor([LABEL])).outputs
    assert not outputs["past.logits"].requires_grad
    assert outputs["student.logits"].requires_grad
    before = outputs["past.logits"].clone()
    torch.optim.SGD(step.parameters(), lr=1.0).step()
    again = step(tokens=torch.tensor([[0, 1]]), label=torch.tensor([LABEL])).outputs
    assert torch.equal(again["past.logits"], before)


def tiny(path: Path, **train: Any) -> kdgraph.Spec:
    """A shipped spec, but small."""
    sizes = ["data.limit=16", "data.held_out=8", "data.batch_size=8", "data.length=16"]
    model = [f"models.student.args.{k}={v}" for k, v in (("width", 8), ("depth", 1), ("heads", 2))]
    keys = [f"train.{key}={value}" for key, value in train.items()]
    return kdgraph.load_spec(path, set=[*sizes, *model, *keys])


def test_it_trains_and_renews_the_past(tmp_path: Path) -> None:
    result = run(tiny(SPEC, epochs=2), out=tmp_path, device="cpu", steps=3)
    assert set(result.runs[0].metrics) == {"accuracy", "perplexity", "calibration_error"}
    assert result.runs[0].steps == 3
    state = torch.load(tmp_path / "distilled/seed-0/last.ckpt", weights_only=True)["distill"]
    now, past = (
        next(v for k, v in state.items() if part in k and k.endswith("head.weight"))
        for part in ("student", "past")
    )
    assert not torch.equal(now, past)  # the past is that of the end of the first epoch
    assert past.any()


def test_the_student_alone_learns_by_plain_cross_entropy() -> None:
    alone = student_alone(tiny(SPEC))
    assert list(alone.models) == ["student"]
    (edge,) = alone.losses.values()
    assert (edge.use, edge.target, edge.smoothing) == ("cross_entropy", "label", 0)


def test_the_baseline_is_label_smoothing() -> None:
    spec = tiny(PLAIN)
    assert list(spec.models) == ["student"]
    assert not spec.signals
    (edge,) = spec.losses.values()
    assert (edge.use, edge.target, edge.smoothing) == ("cross_entropy", "label", 0.1)
    assert edge.mask is None
    assert not [d for d in kdgraph.check(spec) if d.severity == "error"]
