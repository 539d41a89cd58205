"""Where taps lie: the share of FLOPs before them, and how much of the input they see."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kdgraph
from kdgraph.graph.example import example_batch
from kdgraph.graph.reach import Reach, reaches


def of_taps(net: nn.Module, taps: dict[str, str], shape: list[Any]) -> dict[str, Reach]:
    spec = {
        "kdgraph": 1,
        "name": "reach",
        "batch": {"x": {"shape": shape}},
        "models": {"student": {"taps": taps}},
        "losses": {name: {"use": "activation_norm", "student": f"student.{name}"} for name in taps},
    }
    report = kdgraph.plan(spec, models={"student": net})
    graph = next(r.after for r in report.records if r.name == "resolve_taps")
    return reaches(graph, example_batch(report.spec, batch=2))


def test_depth_is_the_share_of_flops() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 12))
    found = of_taps(net, {"a": "0", "b": "1", "c": "2"}, ["B", 4])
    assert [r.depth for r in found.values()] == [0.25, 0.25, 1.0]


class Branches(nn.Module):
    """A dear branch and a cheap one, the dear one first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dear, self.cheap = nn.Linear(4, 4), nn.Linear(4, 36), nn.Linear(4, 4)
        self.idle = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        dear = self.dear(x)
        return self.cheap(self.idle(x)) + dear.sum(1, keepdim=True)


def test_what_ran_beside_it_makes_a_tap_no_deeper() -> None:
    found = of_taps(Branches(), {"idle": "idle", "out": "output"}, ["B", 4])
    assert found["student.idle"].depth == 4 / 44
    assert found["student.out"].depth == 1


def test_the_field_of_convolutions() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=2, dilation=2), nn.AdaptiveAvgPool2d(1),
    )  # fmt: skip
    found = of_taps(net, {"a": "0", "b": "1", "c": "2", "d": "3", "e": "4"}, ["B", 3, 64, 64])
    wide = [(3, 1)], [(3, 1), (3, 1)], [(3, 1), (3, 1), (2, 2)], [(3, 1), (3, 1), (2, 2), (3, 8)]
    for reach, windows in zip(found.values(), wide, strict=False):
        most = 1 + sum((k - 1) * step for k, step in windows)
        deviation = math.sqrt(sum((k**2 - 1) / 12 * step**2 for k, step in windows))
        assert reach.field == pytest.approx(min(most, 4 * deviation) / 64)
    assert found["student.e"].field == 1


@pytest.mark.parametrize(("kernel", "inputs"), [(2, 1), (4, 2), (1, 1)])
def test_a_transposed_convolution_sees_few_values(kernel: int, inputs: int) -> None:
    """Of 2 steps: a value is made of half as many inputs as the kernel is wide."""
    up = nn.ConvTranspose2d(4, 4, kernel, stride=2)
    found = of_taps(nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), up), {"a": "1"}, ["B", 3, 64, 64])
    assert found["student.a"].field == pytest.approx(4 * inputs / 64, rel=0.15)


class Called(nn.Module):
    """Some function of one tensor."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda x: x.flatten(2).norm(dim=2), 1),
        (lambda x: F.normalize(x, dim=1), 3 / 16),
        (lambda x: x.flatten(2) @ x.flatten(2).mT, 1),
        (lambda x: F.unfold(x, 2, stride=2), 4 / 16),
        (lambda x: F.avg_pool2d(x[:, ::2, ::2, ::2], 2), 5 / 16),
        (lambda x: F.avg_pool2d(x[..., 4:12, 4:12], 2), 4 / 16),
    ],
)
def test_the_field_of_functions(call: Callable[[Tensor], Tensor], field: float) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Called(call))
    found = of_taps(net, {"a": "1"}, ["B", 3, 16, 16])["student.a"]
    assert found.field == pytest.approx(field, rel=0.05)


class Gated(nn.Module):
    """A map times what is pooled from it: a squeeze-and-excitation gate."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True).sigmoid()


class Attention(nn.Module):
    """Tokens [B, L, D] that look at each other, in windows or all at all."""

    def __init__(self, window: int, whole: bool = True) -> None:
        super().__init__()
        self.window, self.whole = window, whole

    def forward(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        x = x.reshape(B * L // self.window, self.window, D)
        if self.whole:
            return F.scaled_dot_product_attention(x, x, x).reshape(B, L, D)
        return ((x @ x.mT).softmax(-1) @ x).reshape(B, L, D)


def patches() -> nn.Module:
    class Patches(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flatten(2).mT

    return Patches(3, 8, 16, stride=16)


@pytest.mark.parametrize(
    ("last", "field"),
    [
        (nn.Identity(), 0.25),
        (nn.Linear(8, 8), 0.25),
        (Attention(16), 1),
        (Attention(4), 0.5),
        (Attention(4, whole=False), 0.5),
    ],
)
def test_the_field_of_tokens(last: nn.Module, field: float) -> None:
    net = nn.Sequential(patches(), last)
    found = of_taps(net, {"out": "1"}, ["B", 3, 64, 64])["student.out"]
    assert found.field == pytest.approx(field)


class Reduced(nn.Module):
    """A mean over some dimensions."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims)


@pytest.mark.parametrize(("dims", "field"), [((1,), 3 / 8), ((2, 3), 1), ((3,), 1), ((-3,), 3 / 8)])
def test_a_mean_over_channels_sees_no_more(dims: tuple[int, ...], field: float) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Reduced(*dims))  # as many as there are rows
    assert of_taps(net, {"out": "1"}, ["B", 3, 8, 8])["student.out"].field == field


def test_mixing_over_tokens_sees_all() -> None:
    class Mixed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mT).mT

    net = nn.Sequential(patches(), Mixed(16, 16))
    assert of_taps(net, {"out": "1"}, ["B", 3, 64, 64])["student.out"].field == 1


def test_a_gate_only_scales() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Gated())
    found = of_taps(net, {"a": "0", "b": "1"}, ["B", 3, 32, 32])
    assert found["student.a"].field == found["student.b"].field == 3 / 32


def test_behind_flattening_it_is_all() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 5))
    found = of_taps(net, {"a": "0", "b": "2"}, ["B", 3, 8, 8])
    assert found["student.a"].field == 3 / 8
    assert found["student.b"].field == 1


def test_models_are_left_as_they_were() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {n: v.clone() for n, v in net.state_dict().items()}
    of_taps(net, {"a": "1"}, ["B", 3, 8, 8])
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())
