"""A folded model is a plain one that gives the same, and the trained one stays what it was."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import kdgraph
from kdgraph.actions._fold import fold, without_actions


class Halved(nn.Module):
    bakes = True

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class Scaled(nn.Module):
    """A layer times a factor for each channel, as an action might wrap it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.factor = nn.Parameter(torch.rand(layer.out_features) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) * self.factor
        return out

    def folded(self) -> nn.Module:
        plain = nn.Linear(self.layer.in_features, self.layer.out_features)
        with torch.no_grad():
            plain.weight.copy_(self.layer.weight * self.factor[:, None])
            plain.bias.copy_(self.layer.bias * self.factor)
        return plain


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.weight = self.one.weight
        self.again = self.one
        self.last = Scaled(nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.again(self.other(self.one(x).relu()).relu()).relu())
        return out


def changed() -> Tied:
    net, half = Tied(), Halved()
    for layer in (net.one, net.other):
        parametrize.register_parametrization(layer, "weight", half)
    parametrize.register_parametrization(net.last.layer, "weight", Halved())
    return net.eval()


def test_equal_plain_and_tied() -> None:
    net, x = changed(), torch.randn(5, 4)
    before, kinds = copy.deepcopy(net.state_dict()), [type(m) for m in net.modules()]
    plain = fold(net)
    assert isinstance(plain, Tied)
    torch.testing.assert_close(plain(x), net(x))
    assert {type(m) for m in plain.modules()} == {Tied, nn.Linear}
    assert plain.one is plain.again
    assert plain.one.weight is plain.other.weight
    assert torch.equal(plain.one.weight, net.one.weight)
    assert [type(m) for m in net.modules()] == kinds
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    assert set(plain.state_dict()) == set(Tied().state_dict()) - {
        "last.factor", "last.layer.weight", "last.layer.bias"
    } | {"last.weight", "last.bias"}  # fmt: skip


def test_a_copy_of_the_model_still_works() -> None:
    """Copies of a parametrised module share its class."""
    net, x = changed(), torch.randn(5, 4)
    twice = copy.deepcopy(net)
    fold(twice)
    assert torch.equal(twice(x), net(x))
    assert fold(fold(net))(x).equal(fold(net)(x))


def test_what_others_put_in_stays() -> None:
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.BatchNorm1d(3))
    assert without_actions(net) is net
    found = fold(net)
    assert found.state_dict().keys() == net.state_dict().keys()
    assert found is not net


def test_the_whole_model_may_be_replaced_and_modes_stay() -> None:
    net = Scaled(nn.Linear(4, 3)).train()
    found = fold(net)
    assert type(found) is nn.Linear
    assert found.training
    assert without_actions(net) is not net


def test_save_student_writes_the_plain_model(tmp_path: Path) -> None:
    net = changed().train()
    spec = {
        "kdgraph": 1,
        "name": "folded",
        "batch": {"x": {"shape": ["B", 4]}, "y": {"shape": ["B"], "dtype": "int64", "classes": 3}},
        "models": {"student": {"taps": {"logits": "output"}}},
        "losses": {"label": {"use": "cross_entropy", "student": "student.logits", "target": "y"}},
    }
    step = kdgraph.compile(spec, models={"student": net})
    step.save_student(tmp_path / "student.safetensors")
    written = load_file(tmp_path / "student.safetensors")
    assert torch.equal(written["one.weight"], net.one.weight)
    assert "one.parametrizations.weight.original" in step.student.state_dict()
