"""What is frozen stays bit for bit what it is, statistics too, until it is unfrozen."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import kdgraph
from kdgraph.actions._fold import fold
from kdgraph.actions._frozen import freeze_part, stands_still
from kdgraph.actions._world import World
from kdgraph.actions.freeze import Freeze
from kdgraph.actions.quantize import Quantize
from kdgraph.actions.unfreeze import Unfreeze
from kdgraph.errors import ActionError

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "frozen",
    "batch": {
        "x": {"shape": ["B", 3]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 2},
    },
    "models": {"student": {"taps": {"mid": "2", "logits": "output"}}},
    "losses": {"label": {"use": "cross_entropy", "student": "student.logits", "target": "label"}},
    "stages": [
        {"name": "warm", "after": [{"use": "freeze", "modules": ["student.0", "student.1"]}]},
        {"name": "head", "after": [{"use": "unfreeze", "modules": "student.1"}]},
        {"name": "rest"},
    ],
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Dropout()), nn.Tanh(), nn.Linear(4, 2)
    )


def trained(step: kdgraph.DistillModule, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of the student after some steps, in the order a training loop might have."""
    for seed in range(3):
        step.student.eval()
        step.student.train()
        step.train()
        torch.manual_seed(seed)
        optimizer.zero_grad(set_to_none=False)
        step(x=torch.randn(8, 3) + 1, label=torch.arange(8) % 2).loss.backward()
        optimizer.step()
    return {name: value.clone() for name, value in step.student.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_through_the_stages() -> None:
    step = kdgraph.compile(SPEC, models={"student": net()})
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    states = [trained(step, optimizer)]
    for stage in ("head", "rest"):
        step.set_stage(stage)
        states.append(trained(step, optimizer))
    head = {"3.weight", "3.bias"}
    norm = {f"1.0.{n}" for n in ("weight", "bias", "running_mean", "running_var")}
    assert changed(states[0], states[1]) == head
    assert changed(states[1], states[2]) == head | norm | {"1.0.num_batches_tracked"}


def test_the_state_of_a_frozen_module_is_resumed() -> None:
    step, again = (kdgraph.compile(SPEC, models={"student": net()}) for _ in range(2))
    step.set_stage("head")
    again.load_state_dict(step.state_dict())
    frozen = [n for n, p in again.student.named_parameters() if not p.requires_grad]
    assert frozen == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]
    assert stands_still(again.student.get_submodule("1.0"))


def world(student: nn.Module) -> World:
    return World(kdgraph.load_spec(SPEC), {"student": student})


def test_what_its_owner_has_frozen_is_not_unfrozen() -> None:
    student = net()
    student.get_parameter("3.bias").requires_grad_(False)
    here = world(student)
    assert Freeze(modules=("student",)).apply(here, {}) == ["student: 34 parameters frozen"]
    assert not any(p.requires_grad for p in student.parameters())
    Freeze(modules=("student.3",)).apply(here, {})
    assert Unfreeze(modules=("student",)).apply(here, {}) == [
        "student: 32 parameters trained again"
    ]
    assert [n for n, p in student.named_parameters() if not p.requires_grad] == ["3.bias"]
    assert type(student.get_submodule("1.0")) is nn.BatchNorm1d
    assert all(m.training for m in student.modules())


def test_copies_stand_still_too_and_a_folded_one_is_plain() -> None:
    student = net()
    Freeze(modules=("student.1",)).apply(world(student), {})
    for other in (copy.deepcopy(student), pickle.loads(pickle.dumps(student))):
        norm = other.train().get_submodule("1.0")
        assert not norm.training
        assert stands_still(norm)
        assert other.get_submodule("1.1").training
    plain = fold(student)
    assert type(plain.get_submodule("1.0")) is nn.BatchNorm1d
    assert stands_still(student.get_submodule("1.0"))


def test_a_gradient_at_hand_is_dropped() -> None:
    layer = nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    freeze_part(layer)
    assert layer.weight.grad is None


class Opaque(nn.Module):
    """Cannot be traced with proxies, so that its graph is an exported one, with one mode."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.drop = nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError
        out: Tensor = self.norm(self.drop(self.fc(x)))
        return out


def test_a_graph_of_one_mode_has_frozen_norms_in_the_other() -> None:
    text = copy.deepcopy(SPEC)
    text["models"]["student"]["taps"]["mid"] = "drop"
    action = {"use": "freeze", "modules": "student.norm"}
    text["stages"] = [{"name": "one"}, {"name": "two", "before": [action]}]
    student = Opaque()
    step = kdgraph.compile(text, models={"student": student})
    assert step.report.captures["student"].mode_dependent
    step.set_stage("two")
    before = {name: value.clone() for name, value in student.state_dict().items()}
    after = trained(step, torch.optim.SGD(step.parameters(), lr=0.1))
    assert changed(before, after) == {"fc.weight", "fc.bias"}
    x = torch.randn(4, 3)
    out = step.eval()(x=x, label=torch.tensor([0, 1, 0, 1])).outputs
    torch.testing.assert_close(out["student.logits"], student(x))


def test_a_layer_may_be_quantised_while_it_is_frozen() -> None:
    student = net()
    here = world(student)
    Freeze(modules=("student",)).apply(here, {})
    quantize = Quantize(modules=("student.3",))
    quantize.apply(here, quantize.decide(here))
    assert not any(p.requires_grad for p in student.parameters())
    assert Unfreeze(modules=("student",)).apply(here, {}) == [
        "student: 34 parameters trained again"
    ]
    assert all(p.requires_grad for p in student.parameters())


def test_unknown_modules_are_refused() -> None:
    with pytest.raises(ActionError, match=r"no module matches 'student\.7'"):
        Freeze(modules=("student.7",)).apply(world(net()), {})


def test_in_a_run(tmp_path: Path) -> None:
    """Through steps, validation and a resume: what is frozen after the first epoch has stayed."""
    pytest.importorskip("lightning")
    from kdgraph.train import run

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
            },
        },
        "losses": {
            "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"}
        },
        "stages": [
            {"name": "all", "epochs": 1},
            {
                "name": "rest",
                "epochs": 2,
                "before": [{"use": "freeze", "modules": ["student.bn1", "student.layer[12]"]}],
                "during": [{"use": "unfreeze", "modules": "student.layer2", "start": 2}],
            },
        ],
        "data": {"use": "digits", "limit": 40, "batch_size": 40},
        "train": {"epochs": 1, "optimizer": {"use": "SGD", "lr": 0.1, "weight_decay": 0.1}},
    }
    spec = kdgraph.load_spec(text)
    first = run(spec, out=tmp_path, device="cpu", steps=1).runs[0].weights
    assert first is not None
    before = load_file(first)
    after = load_file(str(run(spec, out=tmp_path, device="cpu", resume=True).runs[0].weights))
    stayed = set(before) - changed(before, after)
    assert stayed == {n for n in before if n.startswith(("bn1.", "layer1.", "layer2."))}
