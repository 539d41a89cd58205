"""GSLR of a quantised student: known losses and steps, two stages, what is trained and exported."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import kdgraph
from kdgraph.actions._fake_quantize import best_step, quantizer, shadow
from kdgraph.actions._fold import fold
from kdgraph.actions._world import World
from kdgraph.actions.quantize import Quantize
from kdgraph.models.load import build_model
from kdgraph.train import run

SPECS = Path(__file__).parents[2] / "specs" / "methods"
SHIPPED = {3: SPECS / "gslr_qdnn.yaml", 7: SPECS / "gslr_qdnn" / "3bit.yaml"}
Compiled = Callable[..., kdgraph.DistillModule]  # conftest.py

TEN_EPOCHS = "signals.mix.value={linear: [1, 0], epochs: [0, 10]}"
AT_TWO = ["signals.target.tau=2", "losses.soft.tau=2"]
FLOAT = ["conv1", "fc"]

# e/E = 0, 5/10, 9/10 of the mixture of labels at tau 1 and the teacher at tau 2
FORMS = [
    (["losses.soft.scale=none"], [1.0580747715237306, 0.9432324707149275, 0.8513586300678850]),
    (["losses.soft.variant=kl"], [0.1515337391875971, 0.4899619545468607, 0.7607045268342717]),
]


@pytest.mark.parametrize(("changes", "known"), FORMS, ids=["soft CE", "tau**2 KL"])
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_known_losses(
    shipped: Compiled, changes: list[str], known: list[float], dtype: torch.dtype, rel: float
) -> None:
    step = shipped("gslr_qdnn", TEN_EPOCHS, *AT_TWO, *changes, dtype=dtype)
    given = {
        "z_s": torch.tensor([[0.5, 0.2, -0.1]], dtype=dtype),
        "z_t": torch.tensor([[2.0, 1.0, 0.0]], dtype=dtype),
        "label": torch.tensor([0]),
    }
    for epoch, value in zip((0, 5, 9), known, strict=True):
        step.set_progress(epoch=epoch)
        # what a schedule moves is float32 in every step: 1 - 9/10 has seven digits
        loose = rel if epoch < 9 else max(rel, 1e-7)
        assert step(**given).loss.item() == pytest.approx(value, rel=loose)


@pytest.mark.parametrize(
    ("levels", "delta", "codes"),
    [(3, 0.7166666666666667, [-1, 0, 0, 1, 1]), (7, 6.3 / 23, [-3, -1, 0, 2, 3])],
)
def test_known_steps(levels: int, delta: float, codes: list[int]) -> None:
    """By the action as it ships: the first layer and the last stay what they are."""
    weight = torch.tensor([[-0.9, -0.3, 0.1, 0.45, 0.8]], dtype=torch.float64)
    names = {"conv1": nn.Linear(2, 2), "layer": nn.Linear(5, 1), "fc": nn.Linear(2, 2)}
    net = nn.Sequential()
    for name, layer in names.items():
        net.add_module(name, layer)
    names["layer"].weight = nn.Parameter(weight)
    spec = kdgraph.load_spec(SHIPPED[levels])
    (action,) = spec.stages[1].before
    assert isinstance(action, Quantize)
    world = World(spec, {"student": net})
    decided = action.decide(world)
    assert decided == {"delta": {"student.layer": pytest.approx(delta, rel=1e-12)}}
    action.apply(world, decided)
    found = fold(net).get_parameter("layer.weight")
    assert (found / delta).tolist() == [pytest.approx(codes, rel=1e-12)]


def batch() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        "image": torch.rand(6, 1, 8, 8, generator=random),
        "label": torch.arange(6),
    }


def trained(step: kdgraph.DistillModule, steps: int = 2) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(step.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        step(**batch()).loss.backward()
        optimizer.step()
    return optimizer


NETS = {"student": ("cifar/resnet8", 0.5), "teacher": ("cifar/resnet8", 1)}


@pytest.fixture
def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    args = {"in_channels": 1, "num_classes": 10}
    return {n: build_model(source, {**args, "width": w}) for n, (source, w) in NETS.items()}


@pytest.fixture
def step(nets: dict[str, nn.Module]) -> kdgraph.DistillModule:
    """The shipped spec, at the beginning of its second stage."""
    found = kdgraph.compile(SHIPPED[3], models=nets)
    trained(found)
    found.set_stage("quantised")
    return found


def test_the_first_stage_is_without_teacher() -> None:
    found = kdgraph.compile(SHIPPED[3])
    out = found(**batch())
    assert set(out.losses) == {"label"}
    assert out.loss == out.losses["label"]
    assert not [n for n in found.report.graph.graph.nodes if str(n.target).startswith("teacher")]
    assert not any(quantizer(m) for m in found.student.modules())


def levels_of(weight: Tensor) -> int:
    return len(torch.unique(weight))


@pytest.mark.parametrize("levels", SHIPPED)
def test_levels(levels: int) -> None:
    found = kdgraph.compile(SHIPPED[levels])
    found.set_stage("quantised")
    trained(found, 1)
    plain = fold(found.student)
    few = {name: levels_of(p) for name, p in plain.named_parameters() if p.dim() > 1}
    assert all(few.pop(f"{name}.weight") > levels for name in FLOAT)
    assert len(few) == 8
    assert all(1 < count <= levels for count in few.values())


def test_steps_are_the_best_for_the_weights_of_the_first_stage(step: kdgraph.DistillModule) -> None:
    layer = step.student.get_submodule("layer2.0.conv1")
    found = quantizer(layer)
    assert found is not None
    before = float(found.delta)
    assert before == pytest.approx(best_step(shadow(layer), 2), rel=1e-6)
    trained(step)
    assert float(found.delta) == before


def test_the_gradient_goes_straight_through(
    step: kdgraph.DistillModule, nets: dict[str, nn.Module]
) -> None:
    """That of w is the one which a plain network with the weights Q(w) has."""
    other = fold(step.student)
    plain = kdgraph.compile(SHIPPED[3], models={**nets, "student": other}, set=["stages=null"])
    for one in (step, plain):
        one.set_progress(epoch=10)
        one.zero_grad()
        one(**batch()).loss.backward()
    for name, parameter in other.named_parameters():
        path, _, own = name.rpartition(".")
        layer = step.student.get_submodule(path)
        quantised = own == "weight" and quantizer(layer) is not None
        mine = shadow(layer) if quantised else layer.get_parameter(own)
        assert mine.grad is not None
        assert parameter.grad is not None
        torch.testing.assert_close(mine.grad, parameter.grad, rtol=1e-6, atol=1e-8)


def test_lambda_counts_from_the_start_of_the_stage(step: kdgraph.DistillModule) -> None:
    """1 at its first step, 0 at its end, and the teacher stays what it is."""
    for epoch, alone in ((0, "soft"), (30, "label")):
        step.set_progress(epoch=epoch)
        out = step(**batch())
        assert out.loss.item() == pytest.approx(out.losses[alone].item(), rel=1e-6)


def test_weight_decay_acts_on_the_float_weights(step: kdgraph.DistillModule) -> None:
    layer = step.student.get_submodule("layer1.0.conv1")
    weight = shadow(layer)
    before, levels = weight.detach().clone(), fold(layer).get_parameter("weight")
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1, weight_decay=0.1)
    for p in step.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(weight, 0.99 * before)
    assert levels_of(fold(layer).get_parameter("weight")) == levels_of(levels) == 3


def test_the_second_stage_is_resumed(
    step: kdgraph.DistillModule, nets: dict[str, nn.Module]
) -> None:
    optimizer = trained(step)
    torch.manual_seed(1)
    student = build_model("cifar/resnet8", {"in_channels": 1, "num_classes": 10, "width": 0.5})
    again = kdgraph.compile(SHIPPED[3], models={**nets, "student": student})
    again.load_state_dict(step.state_dict())
    moments = copy.deepcopy(optimizer.state_dict())  # steps change it in place
    for one in (step, again):
        other = torch.optim.SGD(one.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        other.load_state_dict(copy.deepcopy(moments))
        one.set_progress(epoch=3)
        other.zero_grad()
        one(**batch()).loss.backward()
        other.step()
    for mine, theirs in zip(step.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_it_trains_and_exports_the_plain_network(tmp_path: Path) -> None:
    small = [
        "data.limit=50", "train.teacher=null", "models.teacher.source=cifar/resnet8",
        "stages.0.epochs=1", "stages.1.epochs=2",
    ]  # fmt: skip
    found = run(SHIPPED[3], out=tmp_path, set=small, device="cpu").runs[0]
    assert found.steps == 3
    assert found.finished
    assert 0 <= found.metrics["accuracy"] <= 1
    assert found.weights is not None
    plain = build_model("cifar/resnet8", {"in_channels": 1, "num_classes": 10, "width": 0.5})
    plain.load_state_dict(load_file(found.weights))
    assert levels_of(plain.get_parameter("layer3.0.conv2.weight")) <= 3
    assert found.actions[0]["did"] == ["student: 8 layers with 19,072 weights of 3 levels"]
