"""Layers start anew: which, with what values, and what stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization

import kdgraph
from kdgraph.actions._fake_quantize import FakeQuantize
from kdgraph.actions._frozen import freeze_part
from kdgraph.actions._world import World
from kdgraph.actions.reinit import Reinit
from kdgraph.errors import ActionError

SPEC = kdgraph.load_spec(
    {
        "kdgraph": 1,
        "name": "reinit",
        "batch": {"x": {"shape": ["B", 2]}, "label": {"shape": ["B"], "dtype": "int64"}},
        "models": {"student": {"taps": {"logits": "output"}}},
        "losses": {
            "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"}
        },
    }
)


class Owner(nn.Module):
    """Has a parameter, and no way to reset it."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(3))
        self.fc = nn.Linear(3, 3)


def net() -> nn.Sequential:
    found = nn.Sequential(
        nn.Conv1d(1, 2, 3), nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()), nn.Linear(2, 2)
    )
    with torch.no_grad():
        for value in found.state_dict().values():
            value.fill_(7)
    return found


def done(student: nn.Module, skeleton: bool = False, **keys: Any) -> list[str]:
    world = World(SPEC, {"student": student}, skeleton=skeleton)
    action = Reinit(**keys)
    return action.apply(world, action.decide(world))


def state(student: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in student.state_dict().items()}


def moved(student: nn.Module, before: dict[str, Tensor]) -> set[str]:
    after = student.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


NORM = {"1.0.weight", "1.0.bias"}
STATISTICS = {"1.0.running_mean", "1.0.running_var", "1.0.num_batches_tracked"}


@pytest.mark.parametrize(
    ("keys", "which"),
    [
        ({"modules": ("student.2",)}, {"2.weight", "2.bias"}),
        ({"modules": ("student.1",)}, NORM | STATISTICS),
        ({"modules": ("student.1",), "statistics": "keep"}, NORM),
        ({"modules": ("student",), "types": ("Linear", "Conv1d")},
         {"0.weight", "0.bias", "2.weight", "2.bias"}),
    ],
)  # fmt: skip
def test_which(keys: dict[str, Any], which: set[str]) -> None:
    student = net()
    before, parameters = state(student), list(student.parameters())
    lines = done(student, **keys)
    assert len(lines) == 1
    assert moved(student, before) == which
    assert all(a is b for a, b in zip(parameters, student.parameters(), strict=True))


def test_values_are_those_of_a_new_layer() -> None:
    student = net()
    torch.manual_seed(3)
    assert done(student, modules=("student.2",)) == [
        "student.2: 1 layer with 6 parameters start anew"
    ]
    torch.manual_seed(3)
    assert torch.equal(student.get_parameter("2.weight"), nn.Linear(2, 2).weight)


def test_a_skeleton_draws_no_random_numbers() -> None:
    student, random = net(), torch.get_rng_state()
    before = state(student)
    done(student, skeleton=True, modules=("student",))
    assert not moved(student, before)
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize(
    ("student", "keys", "message"),
    [
        (Owner(), {"modules": ("student",)}, "'student' has parameters of its own, but no method"),
        (net(), {"modules": ("student.1.1",)}, "no module here has parameters"),
        (net(), {"modules": ("student",), "types": ("Conv2d",)}, "no module of Conv2d"),
        (nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2))), {"modules": ("student",)},
         r"'student\.0' computes its weights"),
        (nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2, bias=False))),
         {"modules": ("student",)}, r"'student\.0' computes its weights"),
    ],
)  # fmt: skip
def test_refusals_change_nothing(student: nn.Module, keys: dict[str, Any], message: str) -> None:
    before = state(student)
    with pytest.raises(ActionError, match=message):
        done(student, **keys)
    assert not moved(student, before)


def test_layers_inside_of_such_a_module_can_be_chosen() -> None:
    student = Owner()
    done(student, modules=("student",), types=("Linear",))
    assert student.token.tolist() == [1, 1, 1]


def test_what_is_frozen_stays() -> None:
    student = net()
    before = state(student)
    freeze_part(student.get_submodule("1.0"))
    assert done(student, modules=("student",)) == [
        "student: 2 layers with 14 parameters start anew; 1 frozen stay as they are"
    ]
    assert moved(student, before) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    with pytest.raises(ActionError, match="all layers here are frozen"):
        done(student, modules=("student.1",))


def test_what_is_frozen_may_be_quantised() -> None:
    student = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    freeze_part(student[0])
    register_parametrization(student[0], "weight", FakeQuantize(2, torch.tensor(0.5)))
    before = state(student)
    assert "1 layer with 6 parameters" in done(student, modules=("student",))[0]
    assert moved(student, before) == {"1.weight", "1.bias"}


def test_what_is_tied_to_something_frozen_stays() -> None:
    student = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    student[1].weight = student[0].weight
    freeze_part(student[0])
    before = state(student)
    with pytest.raises(ActionError, match="all layers here are frozen"):
        done(student, modules=("student.1",))
    assert not moved(student, before)


def test_the_near_match_is_of_the_class_that_was_asked_for() -> None:
    with pytest.raises(ActionError, match="no module of Linear matches") as refused:
        done(net(), modules=("student.0",), types=("Linear",))
    assert refused.value.diagnostics[0].help == "did you mean 'student.2'?"
