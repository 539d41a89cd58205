"""layout: a trained convolutional model runs with channels last, and nobody sees that."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.graph import conv
from kdgraph.graph.conv import trained_channels_last, trained_contiguous
from kdgraph.passes.manager import Record


class Block(nn.Module):
    """A coarse part: a depthwise and a plain convolution around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mix(torch.nn.functional.silu(self.norm(self.depth(x))))
        return out


class Net(nn.Module):
    """Large maps in front, large weights at the end."""

    def __init__(self, width: int = 8, middle: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width))
        self.block = Block(width)
        self.middle = middle or nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.wide = nn.Sequential(nn.Conv2d(width, 160, 3, padding=1), nn.SiLU())
        self.wider = nn.Conv2d(160, 160, 3, padding=1)
        self.head = nn.Linear(160, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.middle(self.block(self.stem(x))))
        out: Tensor = self.head(self.wider(self.wide(x)).mean((2, 3)))
        return out


def spec(dtype: str = "float32") -> dict[str, Any]:
    taps = {"mid": "block", "logits": "output"}
    return {
        "kdgraph": 1,
        "name": "layout",
        "batch": {"image": {"shape": ["B", 3, 16, 16], "dtype": dtype}},
        "models": {"teacher": {"taps": dict(taps)}, "student": {"taps": dict(taps)}},
        "losses": {
            "soft": {
                "use": "soft_target",
                "student": "student.logits",
                "teacher": "teacher.logits",
            },
            "mid": {"use": "hint", "student": "student.mid", "teacher": "teacher.mid"},
        },
    }


def compiled(
    net: nn.Module, *also: str, dtype: torch.dtype = torch.float32
) -> kdgraph.DistillModule:
    torch.manual_seed(0)
    models = {"teacher": Net().to(dtype), "student": copy.deepcopy(net).to(dtype)}
    return kdgraph.compile(spec(str(dtype).removeprefix("torch.")), models=models, also=also)


def record(step: kdgraph.DistillModule) -> Record:
    (found,) = [r for r in step.report.records if r.name == "layout"]
    return found


def run(step: kdgraph.DistillModule, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    random = torch.Generator().manual_seed(1)
    image = torch.randn(6, 3, 16, 16, generator=random).to(dtype)
    torch.manual_seed(2)
    out = step(image=image)
    step.zero_grad()
    out.loss.backward()
    return {
        "loss": out.loss.detach(),
        "losses": dict(out.losses),
        "outputs": dict(out.outputs),
        "grads": {n: p.grad for n, p in step.named_parameters()},
        "buffers": {n: b.clone() for n, b in step.student.named_buffers()},
    }


@pytest.mark.parametrize("train", [True, False])
def test_equal_to_rounding_in_float64(train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # there nothing but the rewrite itself could make a difference
    monkeypatch.setattr(conv, "_pays", lambda value: not torch.compiler.is_compiling())
    net = Net()
    step = compiled(net, "layout", dtype=torch.float64).train(train)
    assert record(step).did
    other = compiled(net, dtype=torch.float64).train(train)
    here, there = run(step, torch.float64), run(other, torch.float64)
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-12)


def test_equal_in_float32_and_everything_in_its_own_layout() -> None:
    net = Net()
    step = compiled(net, "layout")
    here, there = run(step), run(compiled(net))
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-6)
    for name, value in there["outputs"].items():
        assert here["outputs"][name].stride() == value.stride(), name
    for name, parameter in step.student.named_parameters():
        assert parameter.is_contiguous()
        assert parameter.grad is not None
        assert parameter.grad.is_contiguous(), name  # sizes of 1 have any stride


def test_up_to_where_weights_outweigh_maps() -> None:
    step = compiled(Net(), "layout")
    assert record(step).did == (
        "student: channels last on a CPU, 4 of 5 convolutions: "
        "up to wider, where weights outweigh maps",
    )
    nodes = {n.target: n for n in step.report.graph if n.op == "call_function"}
    assert [u.target for u in nodes[trained_channels_last].users] == ["models.student.stem"]
    assert trained_contiguous in nodes
    assert "models.student.block" in {str(n.target) for n in step.report.graph}  # still coarse


def test_convolutions_run_with_channels_last() -> None:
    step = compiled(Net(), "layout")
    seen: dict[str, bool] = {}

    def watch(name: str) -> Any:
        last = torch.channels_last
        return lambda module, args: seen.update({name: args[0].is_contiguous(memory_format=last)})

    for name in ("stem.0", "block.depth", "block.mix"):
        step.student.get_submodule(name).register_forward_pre_hook(watch(name))
    run(step)
    assert seen == {"stem.0": True, "block.depth": True, "block.mix": True}


class Viewing(nn.Module):
    """Code that knows the layout."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1).view(x.shape)


def chosen() -> nn.Module:
    return Net().to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("net", "why"),
    [
        pytest.param(lambda: Net(middle=Viewing()), "it does not run with channels", id="view"),
        pytest.param(lambda: Net(middle=nn.Dropout(0.2)), "random numbers for a map", id="drop"),
        pytest.param(chosen, "its owner has chosen", id="chosen"),
    ],
)
def test_left_alone(net: Any, why: str) -> None:
    step = compiled(net(), "layout")
    assert not record(step).did
    (said,) = record(step).declined
    assert said.startswith("student: keeps its layout: ")
    assert why in said
    assert str(record(step).before) == str(record(step).after)


def test_nothing_to_say_of_models_without_maps() -> None:
    def flat() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(768, 5))

    models = {"teacher": flat(), "student": flat()}
    part = spec()
    for model in part["models"].values():
        model["taps"] = {"logits": "output"}
    del part["losses"]["mid"]
    step = kdgraph.compile(part, models=models, also=["layout"])
    assert (record(step).did, record(step).declined) == ((), ())


def test_the_same_report_without_weights() -> None:
    models = {"teacher": Net(), "student": Net()}
    plan = kdgraph.plan(spec(), models=models, also=["layout"])
    (found,) = [r for r in plan.records if r.name == "layout"]
    assert found.did == record(compiled(Net(), "layout")).did


def test_one_graph_under_a_compiler() -> None:
    torch._dynamo.reset()  # it counts compilations of the same code over all tests
    step = compiled(Net(), "layout")
    whole = torch.compile(step, fullgraph=True, backend="aot_eager")
    image = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(whole(image=image).loss, step(image=image).loss)


def test_autocast_is_left_alone() -> None:
    value = torch.zeros(2, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert trained_channels_last(value) is value
    assert trained_channels_last(value.double()).is_contiguous()
    assert not trained_channels_last(value).is_contiguous()
