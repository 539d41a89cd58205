from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import kdgraph
from kdgraph.actions._world import World
from kdgraph.actions.set_number import SetNumber
from kdgraph.errors import ActionError

SPEC = kdgraph.load_spec(
    {
        "kdgraph": 1,
        "name": "numbers",
        "batch": {"x": {"shape": ["B", 2]}, "label": {"shape": ["B"], "dtype": "int64"}},
        "models": {"student": {"taps": {"logits": "output"}}},
        "losses": {
            "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"}
        },
    }
)


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("epoch", torch.tensor(1.0))
        self.register_buffer("hard", torch.tensor(False))
        self.register_buffer("means", torch.zeros(3))


def done(net: nn.Module, skeleton: bool = False, **keys: Any) -> list[str]:
    world = World(SPEC, {"student": net}, skeleton=skeleton)
    action = SetNumber(**keys)
    return action.apply(world, action.decide(world))


def test_to_a_value_and_a_mode() -> None:
    net: Any = Counted()
    epoch = net.epoch
    assert done(net, numbers=("student.epoch",), to=7) == ["student.epoch is 7"]
    done(net, numbers=("student.hard",), to=1)
    assert net.epoch is epoch
    assert (net.epoch.item(), net.hard.item()) == (7, True)
    done(net, numbers=("student.hard", "student.ep*"), to=0)
    assert (net.epoch.item(), net.hard.item()) == (0, False)


@pytest.mark.parametrize(
    ("by", "until", "values"),
    [(1, 3, [2, 3, 3]), (-2, -2, [-1, -2, -2]), (0.5, None, [1.5, 2, 2.5])],
)
def test_step_by_step_to_an_end(by: float, until: float | None, values: list[float]) -> None:
    net: Any = Counted()
    for value in values:
        done(net, numbers=("student.epoch",), by=by, until=until)
        assert net.epoch.item() == value


def test_a_decision_is_applied_to_what_starts_afresh() -> None:
    """As when a run is resumed."""
    action = SetNumber(numbers=("student.epoch",), by=1)
    decided = action.decide(World(SPEC, {"student": Counted()}))
    net: Any = Counted()
    net.epoch.fill_(40)
    action.apply(World(SPEC, {"student": net}), decided)
    assert net.epoch.item() == 2


def test_no_values_in_a_skeleton() -> None:
    net: Any = Counted()
    assert done(net, skeleton=True, numbers=("student.epoch",), by=1) == []
    assert net.epoch.item() == 1


@pytest.mark.parametrize("skeleton", [False, True])
def test_what_is_not_there_is_refused(skeleton: bool) -> None:
    with pytest.raises(ActionError, match="no buffer of one number") as refused:
        done(Counted(), skeleton=skeleton, numbers=("student.epohc",), to=1)
    assert "epoch" in (refused.value.diagnostics[0].help or "")
    with pytest.raises(ActionError, match="no buffer of one number"):
        done(Counted(), skeleton=skeleton, numbers=("student.means",), to=1)


@pytest.mark.parametrize("keys", [{}, {"to": 1, "by": 1}, {"to": 1, "until": 2}, {"until": 2}])
def test_to_or_by(keys: Any) -> None:
    with pytest.raises(ValueError, match=r"'to' or 'by'|'until'"):
        SetNumber(numbers=("student.epoch",), **keys)


def test_another_call_of_a_network_is_refused() -> None:
    written = SPEC.model_dump(exclude={"stages", "data", "train"}, exclude_none=True)
    written["models"]["again"] = {"same_as": "student", "taps": {"logits": "output"}}
    written["losses"]["label"]["student"] = "again.logits"
    action = SetNumber(numbers=("again.epoch",), to=3)
    with pytest.raises(ActionError, match="'again' has no network of its own") as refused:
        action.decide(World(kdgraph.load_spec(written), {"student": Counted()}))
    assert "`same_as` 'student'" in (refused.value.diagnostics[0].help or "")
