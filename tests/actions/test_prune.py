"""Pruning: what goes with a neuron, that a silent one leaves no trace, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdgraph.actions._world import World
from kdgraph.actions.prune import Prune, fit_widths
from kdgraph.errors import ActionError
from kdgraph.models.weights import save_weights
from kdgraph.runtime.carry import carry
from kdgraph.spec.read import load_spec

DOUBLE = torch.float64


class Mlp(nn.Module):
    """The known network: four neurons, of which the third is silent."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)
        values = {
            "fc1.weight": [[1.0, -1.0], [0.5, 0.5], [-1.0, -1.0], [2.0, 0.0]],
            "fc1.bias": [0.0, -0.1, -0.5, 0.0],
            "fc2.weight": [[1.0, 0.5, 3.0, -1.0], [0.0, 1.0, 2.0, 0.5], [-1.0, 0.2, -2.0, 0.3]],
            "fc2.bias": [0.1, 0.0, -0.1],
        }
        self.double()
        self.load_state_dict({k: torch.tensor(v, dtype=DOUBLE) for k, v in values.items()})

    def forward(self, image: Tensor) -> Tensor:
        return self.fc2(self.relu(self.fc1(image)))  # type: ignore[no-any-return]


class Depthwise(nn.Sequential):
    """A block of the model's own, which has to be opened to see what is inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + 0.0 * self.conv(x).mean((2, 3), keepdim=True)  # type: ignore[no-any-return]


class Cnn(nn.Module):
    """Batch norms, a depthwise convolution, pooling, two readers, and a flattening on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.depthwise = Depthwise(8)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.pool = nn.AvgPool2d(2)
        self.fc1, self.bn, self.drop = nn.Linear(36, 12), nn.BatchNorm1d(12), nn.Dropout(0.5)
        self.fc2 = nn.Linear(12, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.depthwise(self.stem(image))
        x = torch.relu(self.left(x) * self.right(x))
        x = self.pool(x).view(x.size(0), -1)
        return self.fc2(self.drop(self.bn(self.fc1(x)).relu()))  # type: ignore[no-any-return]

    def silence(self) -> None:
        """Channels 2 and 5 of the stem, and neurons 0 and 7 of fc1, are never active."""
        bn = self.stem.get_submodule("1")
        for norm, silent in ((bn, [2, 5]), (self.bn, [0, 7])):
            norm.get_parameter("weight").data[silent] = 0.1
            norm.get_parameter("bias").data.fill_(1.0)[silent] = -9.0


def world(
    net: nn.Module, batches: list[Tensor] | None = None, *, skeleton: bool = False, **more: Any
) -> World:
    """The network as ``student``, with the batches as training data."""
    shape = (2,) if isinstance(net, Mlp) else (2, 8, 8)
    image = {"shape": ["B", *shape], "dtype": "float64"}
    taps = more.pop("taps", {})
    spec = load_spec(
        {
            "kdgraph": 1,
            "name": "test",
            "batch": {"image": image, "label": {"shape": ["B"], "dtype": "int64", "classes": 3}},
            "models": {"student": {"taps": {"logits": "output", **taps}}, **more.pop("models", {})},
            "losses": {
                "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
                **more.pop("losses", {}),
            },
            **more,
        }
    )
    data = None if batches is None else lambda: ({"image": b} for b in batches)
    return World(spec, {"student": net}, skeleton=skeleton, batches=data)


def images(seed: int = 0, count: int = 2) -> list[Tensor]:
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 2, 8, 8, dtype=DOUBLE, generator=made) for _ in range(count)]


def cnn() -> Cnn:
    torch.manual_seed(0)
    net = Cnn().double()
    net(images(9)[0])  # running statistics of their own
    net.silence()
    return net


GIVEN = torch.tensor([[1.0, 0.5], [0.2, 1.0]], dtype=DOUBLE)


def test_known_network() -> None:
    net = Mlp()
    before = net(GIVEN)
    action, here = Prune(module=("student.fc1",)), world(net, [GIVEN])
    decided = action.decide(here)
    assert decided["student.fc1"]["keep"].tolist() == [0, 1, 3]
    lines = action.apply(here, decided)
    # two operations for each of 2 x 4 and 4 x 3 weights, and then of 2 x 3 and 3 x 3
    assert lines == [
        "student.fc1: 4 -> 3 neurons, student: 27 -> 21 parameters, 40 -> 30 FLOPs a sample"
    ]
    torch.testing.assert_close(net(GIVEN), before, rtol=0, atol=1e-15)
    known = [[-1.075, 1.65, 0.13], [-0.05, 0.7, 0.12]]
    torch.testing.assert_close(net(GIVEN), torch.tensor(known, dtype=DOUBLE), rtol=0, atol=1e-12)
    assert (net.fc1.out_features, net.fc2.in_features) == (3, 3)


# |a| behind the ReLU is 0.5 0.65 0 2 and 0 0.5 0 0.4
@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({}, [0, 1, 3]),
        ({"eps": 0.5}, [1, 3]),
        ({"eps": 0.5, "statistic": "mean"}, [1, 3]),
        ({"eps": 0.24, "statistic": "mean"}, [0, 1, 3]),
        ({"eps": 0.26, "statistic": "mean"}, [1, 3]),
        ({"eps": 0.5, "statistic": "rate"}, [1, 3]),
        ({"eps": 9.0, "min_keep": 2}, [1, 3]),
        ({"eps": 9.0}, [3]),
        ({"min_keep": 4}, None),
    ],
)
def test_which_neurons_are_inactive(keys: dict[str, Any], kept: list[int] | None) -> None:
    """Over batches of one sample each: a statistic is of all of them together."""
    action = Prune(module=("student.fc1",), **keys)
    decided = action.decide(world(Mlp(), [GIVEN[:1], GIVEN[1:]]))
    assert (decided["student.fc1"]["keep"].tolist() if decided else None) == kept


def test_silent_neurons_leave_no_trace() -> None:
    net = cnn().eval()
    before = [net(b) for b in images()]
    here = world(net, images())
    action = Prune(module=("student.stem.0", "student.fc1"))
    lines = action.apply(here, action.decide(here))
    assert [line.partition(",")[0] for line in lines] == [
        "student.stem.0: 8 -> 6 channels",
        "student.fc1: 12 -> 10 neurons",
    ]
    for batch, known in zip(images(), before, strict=True):
        torch.testing.assert_close(net(batch), known, rtol=0, atol=1e-12)
    conv, bn = net.depthwise.conv, net.stem.get_submodule("1")
    assert (conv.in_channels, conv.groups, len(conv.weight)) == (6, 6, 6)
    assert bn.num_features == len(bn.get_buffer("running_mean")) == 6
    assert net.right.in_channels == net.left.in_channels == 6
    assert not any(module.training for module in net.modules())


def test_channels_become_blocks_of_columns() -> None:
    """Channel 1 of the only reader's input is columns 9 to 17 behind the flattening."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.fc = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Linear(36, 3)

        def forward(self, image: Tensor) -> Tensor:
            x = nn.functional.max_pool2d(self.relu(self.conv(image)), 2)
            return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    net = Flat().double()
    with torch.no_grad():
        net.conv.bias[1] = -99  # type: ignore[index]
    weight = net.fc.weight.detach().clone()
    before = net(images()[0])
    here, action = world(net, images()), Prune(module=("student.conv",))
    action.apply(here, action.decide(here))
    assert torch.equal(net.fc.weight, weight[:, [*range(9), *range(18, 36)]])
    torch.testing.assert_close(net(images()[0]), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_moments_of_the_optimiser_stay(name: str) -> None:
    """A network goes on learning as the wide one would, its silent neurons left out."""
    keys = {"lr": 0.01, "momentum": 0.9} if name == "SGD" else {"lr": 0.01}
    wide, narrow = cnn().eval(), cnn().eval()
    optimizers = [getattr(torch.optim, name)(n.parameters(), **keys) for n in (wide, narrow)]

    def learn(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        net(images()[0]).square().mean().backward()
        optimizer.step()

    for net, optimizer in zip((wide, narrow), optimizers, strict=True):
        for _ in range(3):
            learn(net, optimizer)
    here, action = world(narrow, images()), Prune(module=("student.stem.0", "student.fc1"))
    assert len(action.apply(here, action.decide(here))) == 2
    carry(optimizers[1], here.moved, (), {})
    for parameter in narrow.parameters():
        moments = [v for v in optimizers[1].state[parameter].values() if v.dim()]
        assert moments
        assert all(v.shape == parameter.shape for v in moments)
    for net, optimizer in zip((wide, narrow), optimizers, strict=True):
        learn(net, optimizer)
    torch.testing.assert_close(narrow(images(1)[0]), wide(images(1)[0]), rtol=0, atol=1e-12)


def test_nothing_inactive_changes_nothing() -> None:
    net = Mlp()
    here, action = world(net, [-GIVEN, GIVEN]), Prune(module=("student.fc1",), eps=0.0)
    assert action.decide(here) == {}
    parameters = list(net.parameters())
    assert action.apply(here, {}) == []
    assert here.moved == []
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))


def test_a_skeleton_is_only_looked_at() -> None:
    net = cnn()
    here = world(net, skeleton=True)
    action = Prune(module=("student.fc1",))
    assert action.decide(here) == {}
    assert action.apply(here, {}) == []
    assert net.fc1.out_features == 12
    assert net.training
    with pytest.raises(ActionError, match="the output of the network would shrink"):
        Prune(module=("student.fc2",)).decide(here)


def test_a_decision_is_done_again_to_a_fresh_network() -> None:
    net, file = cnn(), io.BytesIO()
    here = world(net, images())
    action = Prune(module=("student.stem.0", "student.fc1"))
    torch.save(decided := action.decide(here), file)
    lines = action.apply(here, decided)
    file.seek(0)
    fresh = Cnn().double()
    assert action.apply(world(fresh), torch.load(file, weights_only=True)) == lines
    fresh.load_state_dict(net.state_dict())
    torch.testing.assert_close(fresh.eval()(images()[0]), net.eval()(images()[0]), rtol=0, atol=0)
    with pytest.raises(ActionError, match="has 10 neurons, not 12"):
        action.apply(here, {"student.fc1": decided["student.fc1"]})


def test_what_was_saved_loads_into_the_plain_network(tmp_path: Path) -> None:
    net, wide = cnn().eval(), cnn().eval()
    here, action = world(net, images()), Prune(module=("student.stem.0", "student.fc1"))
    action.apply(here, action.decide(here))
    save_weights(net, tmp_path / "narrow.safetensors")
    save_weights(wide, tmp_path / "wide.safetensors")
    plain = Cnn().double().eval()
    fit_widths(plain, tmp_path / "narrow.safetensors")
    assert str(plain) == str(net)
    assert torch.equal(plain(images()[0]), net(images()[0]))
    fit_widths(plain, tmp_path / "wide.safetensors")  # and wider again
    assert str(plain) == str(wide)
    fit_widths(plain, net.state_dict())
    assert torch.equal(plain(images()[0]), net(images()[0]))


class Constant(Mlp):
    """Neuron 2 is 0.4 on all data, and neuron 0 between 0.3 and 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1.weight.data[[0, 2]] = torch.tensor([[0.25, 0.0], [0.0, 0.0]], dtype=DOUBLE)
        self.fc1.bias.data[[0, 2]] = torch.tensor([0.25, 0.4], dtype=DOUBLE)


def test_constant_neurons_are_folded_into_the_bias() -> None:
    """As any that go, at their mean: what a constant one gave is in the bias, exactly."""
    net = Constant()
    before, hidden = net(GIVEN), net.relu(net.fc1(GIVEN))
    here, action = world(net, [GIVEN]), Prune(module=("student.fc1",), eps=0.45, fold_mean=True)
    decided = action.decide(here)
    assert decided["student.fc1"]["keep"].tolist() == [0, 1, 3]
    torch.testing.assert_close(decided["student.fc1"]["means"]["fc2"], hidden.mean(0))
    action.apply(here, decided)
    torch.testing.assert_close(net(GIVEN), before, rtol=0, atol=1e-12)
    assert net.fc2.bias.tolist() == pytest.approx([0.1 + 3 * 0.4, 2 * 0.4, -0.1 - 2 * 0.4])


class NormBehind(nn.Module):
    """A silent neuron is a constant behind this batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn, self.fc2 = nn.Linear(128, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc2(self.bn(torch.relu(self.fc1(image.flatten(1)))))  # type: ignore[no-any-return]


def test_a_norm_behind_the_activation_needs_folding() -> None:
    torch.manual_seed(0)
    net = NormBehind().double()
    net(images()[0])
    with torch.no_grad():
        net.fc1.bias[1] = -99
        net.bn.bias[1] = 0.5
    before = net.eval()(images()[0])
    here = world(net, images())
    with pytest.raises(ActionError, match=r"bn .* makes something else of a silent one"):
        Prune(module=("student.fc1",)).decide(here)
    action = Prune(module=("student.fc1",), fold_mean=True)
    action.apply(here, action.decide(here))
    assert net.bn.num_features == net.fc2.in_features == 3
    torch.testing.assert_close(net(images()[0]), before, rtol=0, atol=1e-12)


class Case(nn.Module):
    """Two layers with something between them, and a third layer for what needs one."""

    def __init__(self, between: Callable[[Case, Tensor, Tensor], Tensor], **layers: Any) -> None:
        super().__init__()
        self.conv, self.other, self.last = (
            layers.get("conv") or nn.Conv2d(2, 4, 1),
            layers.get("other") or nn.Conv2d(2, 4, 1),
            layers.get("last") or nn.Conv2d(4, 3, 1),
        )
        self.between = between

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.between(self, torch.relu(self.conv(image)), image)).mean((2, 3))  # type: ignore[no-any-return]


class Doubled(nn.Conv2d):
    """Might do anything with its weight."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def _auxiliary(net: Case, x: Tensor, image: Tensor) -> Tensor:
    return x * net.other(x).mean() if net.training else x


def _tied() -> nn.Module:
    net = Case(lambda s, x, i: x + 0 * s.other(i).mean())
    net.other.weight = net.conv.weight
    return net


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "shortcut": (
        lambda: Case(lambda s, x, i: x + s.other(i)),
        "an addition, as of a shortcut, joins them with other values",
    ),
    "gate": (lambda: Case(lambda s, x, i: x * s.other(i).sigmoid()), "a product joins them"),
    "concatenation": (
        lambda: Case(lambda s, x, i: torch.cat([x, i], 1), last=nn.Conv2d(6, 3, 1)),
        "a concatenation shares them",
    ),
    "sum over them": (
        lambda: Case(lambda s, x, i: x.mean(1, keepdim=True), last=nn.Conv2d(1, 3, 1)),
        "mean sums over them",
    ),
    "fixed size": (
        lambda: Case(lambda s, x, i: x.reshape(-1, 4, 8, 8)),
        "the model's code fixes a size of 4",
    ),
    "shuffled": (
        lambda: Case(lambda s, x, i: x.view(x.size(0), 2, -1, 8, 8).transpose(1, 2).flatten(1, 2)),
        "mixes them with other dimensions",
    ),
    "unknown": (lambda: Case(lambda s, x, i: x.cumsum(1)), "not known what cumsum does"),
    "norm over them": (
        lambda: Case(lambda s, x, i: s.other(x), other=nn.GroupNorm(2, 4)),
        "not known what other .*GroupNorm",
    ),
    "depthwise": (
        lambda: Case(lambda s, x, i: x, conv=nn.Conv2d(2, 4, 1, groups=2)),
        "tied to those of the layer before it; name that layer",
    ),
    "layer of its own": (
        lambda: Case(lambda s, x, i: x, conv=Doubled(2, 4, 1)),
        "a Doubled has a forward of its own",
    ),
    "called on others": (
        lambda: Case(lambda s, x, i: x * s.last(i.repeat(1, 2, 1, 1)).mean()),
        "a Conv2d is also called on other values",
    ),
    "groups behind": (
        lambda: Case(lambda s, x, i: x, last=nn.Conv2d(4, 4, 1, groups=2)),
        "the 2 groups of last would become unequal",
    ),
    "parametrised": (
        lambda: Case(
            lambda s, x, i: x, conv=nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 1))
        ),
        "parametrised",
    ),
    "tied": (_tied, "student.conv.weight and student.other.weight are one parameter"),
    "read in training alone": (
        lambda: Case(_auxiliary, other=nn.Conv2d(4, 2, 1)),
        "other layers read them in training than in evaluation",
    ),
    "unread": (lambda: Case(lambda s, x, i: s.other(i)), "nothing in the network reads them"),
    "its own output": (
        lambda: Case(lambda s, x, i: x, last=nn.Identity()),
        "the output of the network would shrink",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_changes(name: str) -> None:
    build, reason = REFUSED[name]
    net = build().double()
    before = [(p, tuple(p.shape)) for p in net.parameters()]
    with pytest.raises(ActionError, match=reason) as raised:
        Prune(module=("student.conv",)).decide(world(net, images()))
    assert raised.value.diagnostics[0].code == "KD751"
    assert all(
        a is b and tuple(b.shape) == s for (a, s), b in zip(before, net.parameters(), strict=True)
    )


def _tap(**more: Any) -> Mapping[str, Any]:
    return {"taps": {"hidden": "relu"}, **more}


def test_losses_over_the_neurons_stay_if_any_number_will_do() -> None:
    one = {"use": "activation_norm", "student": "student.hidden"}
    pair = {"student": "student.hidden", "teacher": "teacher.relu"}
    here = world(Mlp(), [GIVEN], **_tap(losses={"silence": one}))
    assert Prune(module=("student.fc1",)).decide(here)
    teacher = {"teacher": {"taps": {"relu": "relu"}}}
    for use, fits in (("similarity", True), ("hint", False)):
        losses = {"pair": {"use": use, **pair}}
        here = world(Mlp(), [GIVEN], **_tap(models=teacher, losses=losses))
        if fits:
            assert Prune(module=("student.fc1",)).decide(here)
        else:
            with pytest.raises(ActionError, match="edge 'pair' compares"):
                Prune(module=("student.fc1",)).decide(here)
    links = {"mid": {"student": "student.hidden", "teacher": "teacher.relu"}}
    losses = {"hint": {"use": "hint", "link": "mid"}}
    here = world(Mlp(), [GIVEN], **_tap(models=teacher, losses=losses, links=links))
    with pytest.raises(ActionError, match="link 'mid' reads"):
        Prune(module=("student.fc1",)).decide(here)


def test_data_is_needed() -> None:
    with pytest.raises(ActionError, match="needs training data"):
        Prune(module=("student.fc1",)).decide(world(Mlp()))


def test_norms_are_no_layers() -> None:
    with pytest.raises(ActionError, match="it is a BatchNorm1d; neurons are those of a Linear"):
        Prune(module=("student.bn",)).decide(world(cnn()))


def test_a_snapshot_is_not_pruned_by_itself() -> None:
    here = world(Mlp(), [GIVEN], models={"old": {"snapshot_of": "student"}})
    here.nets = {**here.nets, "old": Mlp()}
    with pytest.raises(ActionError, match="'old' is a snapshot of 'student'; prune that"):
        Prune(module=("old.fc1",)).decide(here)
    assert Prune(module=("student.fc1",)).decide(here)
