"""Quantised weights: known steps, the exact optimum, gradients straight through, folding."""

from __future__ import annotations

import copy
import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import kdgraph
from kdgraph.actions._fake_quantize import FakeQuantize, best_step, quantized, quantizer, shadow
from kdgraph.actions._fold import fold
from kdgraph.actions._snapshots import follow
from kdgraph.actions._world import World
from kdgraph.actions.quantize import Quantize
from kdgraph.actions.requantize import Requantize
from kdgraph.errors import ActionError
from kdgraph.models.load import build_model

W = torch.tensor([-0.9, -0.3, 0.1, 0.45, 0.8], dtype=torch.float64)


@pytest.mark.parametrize(
    ("bits", "delta", "codes", "error"),
    [
        (2, 0.7166666666666667, [-1, 0, 0, 1, 1], 0.2116666666666667),
        (3, 6.3 / 23, [-3, -1, 0, 2, 3], 0.0268478260869565),
        (1, 0.51, [-1, -1, 1, 1, 1], 0.4520),
    ],
)
def test_known_steps(bits: int, delta: float, codes: list[int], error: float) -> None:
    found = best_step(W, bits)
    assert found == pytest.approx(delta, rel=1e-12)
    levels = quantized(W, torch.tensor(found, dtype=torch.float64), bits)
    assert (levels / found).round().tolist() == codes
    assert float((W - levels).square().sum()) == pytest.approx(error, rel=1e-12)


def by_trial(w: Tensor, bits: int) -> float:
    """The least squared error, from the best step for the codes between any two places."""
    top, a = 2 ** (bits - 1) - 1, w.abs()
    places = sorted({float(x) / (k - 0.5) for x in a for k in range(1, top + 1)} - {0.0})
    steps = [places[0] / 2, *((x + y) / 2 for x, y in pairwise(places)), places[-1] * 0.9999]
    codes = [(a / step + 0.5).floor().clamp_max(top) for step in steps]
    best = [float((a * c).sum() / (c * c).sum()) for c in codes]
    return min(float((a - s * c).square().sum()) for s, c in zip(best, codes, strict=True))


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_the_step_is_the_best_there_is(bits: int) -> None:
    random = torch.Generator().manual_seed(bits)
    for size in range(1, 30):
        w = torch.randn(size, generator=random, dtype=torch.float64)
        if size % 3 == 0:
            w = (2 * w).round()  # ties
        if not w.any():
            continue
        step = torch.tensor(best_step(w, bits), dtype=torch.float64)
        error = float((w - quantized(w, step, bits)).square().sum())
        assert error == pytest.approx(by_trial(w, bits), rel=1e-9, abs=1e-12)


def test_scale_and_sign_do_not_matter() -> None:
    w = torch.randn(500, dtype=torch.float64)
    assert best_step(-1e-20 * w, 3) == pytest.approx(1e-20 * best_step(w, 3), rel=1e-9)


def test_ties_go_away_from_zero() -> None:
    w = torch.tensor([0.5, 1.5, -0.5, -1.5, 2.5])
    assert quantized(w, torch.tensor(1.0), 3).tolist() == [1, 2, -1, -2, 3]


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_a_weight_of_zeros_stays_zero(bits: int) -> None:
    w = torch.zeros(4, requires_grad=True)
    assert best_step(w, bits) == 0
    out = FakeQuantize(bits, torch.tensor(0.0))(w)
    (grad,) = torch.autograd.grad(out.sum(), w)
    assert out.tolist() == [0] * 4
    assert grad.tolist() == [1] * 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_straight_through_and_exact_levels(bits: int, dtype: torch.dtype) -> None:
    w = torch.randn(1000).to(dtype).requires_grad_()
    a = torch.randn(1000).to(dtype)
    step = torch.tensor(best_step(w, bits), dtype=dtype)
    out = FakeQuantize(bits, step)(w)
    (grad,) = torch.autograd.grad((a * out).sum(), w)
    assert torch.equal(grad, a)
    assert torch.equal(out, quantized(w, step, bits))
    assert len(out.unique()) == (2 if bits == 1 else 2**bits - 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.block(self.first(x)).mean((2, 3)))
        return out


SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "quantised",
    "batch": {
        "x": {"shape": ["B", 1, 6, 6]},
        "y": {"shape": ["B"], "dtype": "int64", "classes": 3},
    },
    "models": {
        "teacher": {"taps": {"mid": "block", "logits": "output"}},
        "student": {"taps": {"mid": "block.0", "logits": "output"}},
        "past": {"snapshot_of": "student", "taps": {"logits": "output"}},
    },
    "losses": {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "y"},
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"},
        "mid": {"use": "hint", "student": "student.mid", "teacher": "teacher.mid"},
        "past": {"use": "soft_target", "student": "student.logits", "teacher": "past.logits"},
    },
}


def world() -> World:
    student = Net()
    nets = {"teacher": Net(), "student": student, "past": copy.deepcopy(student)}
    return World(kdgraph.load_spec(SPEC), nets)


def done(action: Quantize | Requantize, world: World) -> list[str]:
    return action.apply(world, action.decide(world))


ALL = Quantize(modules=("student",), keep=("student.first", "student.fc"))


def test_layers_are_chosen_and_weights_stay_what_they_are() -> None:
    here = world()
    net = here.nets["student"]
    before = dict(net.named_parameters())
    assert done(ALL, here) == ["student: 1 layer with 144 weights of 3 levels"]
    after = {n.replace("parametrizations.", "").replace(".original", ""): p
             for n, p in net.named_parameters()}  # fmt: skip
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert quantizer(net.get_submodule("first")) is None
    assert len(net.get_submodule("block.0").weight.unique()) == 3  # type: ignore[operator]
    assert not here.moved


def test_decided_steps_are_applied_to_a_fresh_network() -> None:
    here, there = world(), world()
    there.nets["student"].load_state_dict(here.nets["student"].state_dict())
    decided = ALL.decide(here)
    file = io.BytesIO()
    torch.save(decided, file)
    file.seek(0)
    with torch.no_grad():
        shadow(there.nets["student"].get_submodule("block.0")).mul_(2)
    ALL.apply(here, decided)
    ALL.apply(there, torch.load(file))
    there.nets["student"].load_state_dict(here.nets["student"].state_dict())
    x = torch.randn(2, 1, 6, 6)
    assert torch.equal(here.nets["student"].eval()(x), there.nets["student"].eval()(x))


def test_bits_and_steps_may_change_later() -> None:
    here = world()
    done(Quantize(modules=("student.fc",), bits=3), here)
    layer = here.nets["student"].get_submodule("fc")
    weight, found = shadow(layer), quantizer(layer)
    assert found is not None
    with torch.no_grad():
        weight.mul_(10)
    before = float(found.delta)
    assert done(Requantize(modules=("student",)), here) == ["student: 1 steps fitted anew"]
    assert float(found.delta) == pytest.approx(10 * before, rel=1e-6)
    done(Quantize(modules=("student.fc",), bits=2, delta=0.25), here)
    assert quantizer(layer) is found
    assert shadow(layer) is weight
    weights: Any = layer.weight
    assert set((4 * weights).unique().tolist()) <= {-1, 0, 1}


def test_it_is_distilled_like_any_other() -> None:
    """With a tap in the quantised layer, a quantised teacher, a snapshot, in a fresh graph."""
    here = world()
    done(Quantize(modules=("student", "teacher"), bits=3), here)
    assert follow(here) == ["past: taken anew of student, which was rebuilt"]
    nets = {name: here.nets[name] for name in ("teacher", "student")}
    step = kdgraph.compile(SPEC, models=nets)
    batch = {"x": torch.randn(4, 1, 6, 6), "y": torch.tensor([0, 1, 2, 0])}
    step.eval()
    x = batch["x"]
    expected = nets["student"](x)
    torch.testing.assert_close(step(**batch).outputs["student.logits"], expected)
    torch.testing.assert_close(fold(nets["student"])(x), expected)
    assert step(**batch).losses["past"].item() == pytest.approx(0, abs=1e-6)
    step.train()
    step(**batch).loss.backward()
    weight = shadow(nets["student"].get_submodule("block.0"))
    assert weight.grad is not None
    assert weight.grad.any()
    torch.optim.SGD(step.parameters(), lr=0.1).step()
    step.snapshot()
    assert step.eval()(**batch).losses["past"].item() == pytest.approx(0, abs=1e-6)
    fast = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(fast(**batch).loss, step(**batch).loss)


def test_a_frozen_teacher_is_quantised_between_stages() -> None:
    nets = {"teacher": Net(), "student": Net()}
    second = {"name": "two", "before": [{"use": "quantize", "modules": "teacher", "bits": 1}]}
    step = kdgraph.compile({**SPEC, "stages": [{"name": "one"}, second]}, models=nets)
    before = {name: p.detach().clone() for name, p in nets["teacher"].named_parameters()}
    step.set_stage("two")
    batch = {"x": torch.randn(4, 1, 6, 6), "y": torch.tensor([0, 1, 2, 0])}
    out = step(**batch)
    out.loss.backward()
    plain = fold(nets["teacher"])
    assert torch.equal(out.outputs["teacher.logits"], plain(batch["x"]))
    assert len(torch.unique(plain.get_parameter("block.0.weight"))) == 2
    for name in ("first", "block.0", "fc"):
        weight = shadow(nets["teacher"].get_submodule(name))
        assert torch.equal(weight, before[f"{name}.weight"])
        assert weight.grad is None


def test_patterns_know_a_quantised_weight_by_its_plain_name() -> None:
    pytest.importorskip("lightning")
    from kdgraph.train.optim import trained_parameters

    stage = {"name": "one", "before": [{"use": "quantize", "modules": "student"}]}
    step = kdgraph.compile({**SPEC, "stages": [stage]}, models={"teacher": Net(), "student": Net()})
    names = trained_parameters(step)
    assert set(names) == {f"student.{name}" for name, _ in Net().named_parameters()}
    assert names["student.fc.weight"] is shadow(step.student.get_submodule("fc"))


def test_the_best_weights_are_kept_of_those_that_are_quantised(tmp_path: Path) -> None:
    """A run that keeps the best, quantised after its first epoch, fitted again after each."""
    pytest.importorskip("lightning")
    from kdgraph.train import run

    quantised = [
        {"use": "quantize", "modules": "student", "bits": 3, "start": 1, "every": 9},
        {"use": "requantize", "modules": "student", "start": 2},
    ]
    stage = {"name": "one", "epochs": 3, "keep": "best", "during": quantised}
    text = {
        "kdgraph": 1,
        "name": "run",
        "batch": {
            "image": {"shape": ["B", 1, 8, 8]},
            "label": {"shape": ["B"], "dtype": "int64", "classes": 10},
        },
        "models": {
            "student": {
                "source": "cifar/resnet8",
                "args": {"in_channels": 1, "num_classes": 10, "width": 0.25},
                "taps": {"logits": "output"},
            }
        },
        "losses": {
            "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"}
        },
        "stages": [stage],
        "data": {"use": "digits", "limit": 40, "batch_size": 40},
        "train": {"epochs": 1, "optimizer": {"use": "SGD", "lr": 0.1}},
    }
    found = run(kdgraph.load_spec(text), out=tmp_path, device="cpu").runs[0]
    assert found.weights is not None
    net = build_model("cifar/resnet8", {"in_channels": 1, "num_classes": 10, "width": 0.25})
    weights = load_file(found.weights)
    assert weights.keys() == net.state_dict().keys()
    assert all(len(torch.unique(w)) <= 7 for w in weights.values() if w.dim() > 1)


def test_a_folded_student_has_few_levels() -> None:
    here = world()
    done(ALL, here)
    plain = fold(here.nets["student"])
    fresh = Net()
    fresh.load_state_dict(plain.state_dict())
    assert type(plain.get_submodule("block.0")) is nn.Conv2d
    assert len(fresh.block[0].weight.unique()) <= 3  # type: ignore[operator]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (Quantize(modules=("student.block.1",)), "no convolution"),
        (Quantize(modules=("student.blok",)), "no module matches 'student.blok'"),
        (Requantize(modules=("student",)), "no layer here is quantised"),
    ],
)
def test_refusals(action: Quantize | Requantize, message: str) -> None:
    with pytest.raises(ActionError, match=message):
        done(action, world())


def test_a_tied_weight_is_quantised_everywhere_or_nowhere() -> None:
    here = world()
    tied = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 3), nn.Linear(4, 3))
    for layer in tied[1:]:
        layer.weight = tied[0].weight
    here.nets = {**here.nets, "student": tied}
    with pytest.raises(ActionError, match=r"weight of 'student\.2' is also that of student\.0"):
        done(Quantize(modules=("student",)), here)
    tied[0] = nn.Identity()
    done(Quantize(modules=("student",)), here)
    plain: Any = fold(tied)
    assert plain[1].weight is plain[2].weight


def test_a_skeleton_is_rebuilt_without_looking_at_values() -> None:
    here = world()
    here.skeleton = True
    done(ALL, here)
    assert quantizer(here.nets["student"].get_submodule("block.0")) is not None
