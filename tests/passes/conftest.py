"""A teacher in a small distillation, with and without ``freeze``."""

from __future__ import annotations

import copy
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import kdgraph
from kdgraph.graph.ops import tap
from kdgraph.passes.manager import Record


@pytest.fixture(name="frozen")
def _frozen() -> SimpleNamespace:
    """Everything below, by name."""
    parts = (spec, lived, compiled, batch, results, assert_same, both, record)
    more = (teacher_nodes, modules, kinds, stack, ready)
    return SimpleNamespace(**{part.__name__: part for part in (*parts, *more)})


class Student(nn.Module):
    """Three layers, with a map of the size of the image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3)))


def spec(size: int, classes: int, mid: str | None) -> dict[str, Any]:
    """Logits of the teacher, and a hint at one of its maps."""
    taps = {"logits": "output", **({"mid": mid} if mid else {})}
    losses: dict[str, Any] = {
        "task": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"},
    }
    if mid:
        losses["hint"] = {"use": "hint", "link": "mid"}
    pair = {"mid": {"student": "student.mid", "teacher": "teacher.mid", "adapter": "auto"}}
    return {
        "kdgraph": 1,
        "name": "frozen",
        "batch": {
            "image": {"shape": ["B", 3, size, size]},
            "label": {"shape": ["B"], "dtype": "int64", "classes": classes},
        },
        "models": {
            "teacher": {"taps": taps},
            "student": {"taps": {"logits": "output", **({"mid": "conv"} if mid else {})}},
        },
        "links": pair if mid else {},
        "losses": losses,
    }


def lived(net: nn.Module) -> nn.Module:
    """The model with statistics as training leaves them, and everything in eval mode."""
    random = torch.Generator().manual_seed(3)

    def numbers(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=random) * (high - low) + low

    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.copy_(numbers(module.running_mean, -0.5, 0.5))
            module.running_var.copy_(numbers(module.running_var, 0.5, 1.5))
            if not module.affine:
                continue
            with torch.no_grad():
                module.weight.copy_(numbers(module.weight, 0.5, 1.2))
                module.bias.copy_(numbers(module.bias, -0.3, 0.3))
    return net.eval()


def compiled(
    teacher: nn.Module,
    *,
    size: int = 16,
    classes: int = 5,
    mid: str | None = None,
    without: Collection[str] = (),
) -> kdgraph.DistillModule:
    torch.manual_seed(2)
    models = {"teacher": teacher, "student": Student(classes)}
    return kdgraph.compile(spec(size, classes, mid), models=models, without=without)


def batch(size: int = 16, classes: int = 5) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(3, 3, size, size, generator=random),
        "label": torch.arange(3) % classes,
    }


def results(step: kdgraph.DistillModule, given: dict[str, Tensor]) -> dict[str, Any]:
    out = step(**given)
    step.zero_grad()
    out.loss.backward()
    grads = {n: p.grad for n, p in step.named_parameters()}
    return {"loss": out.loss, "losses": out.losses, "outputs": out.outputs, "grads": grads}


def assert_same(step: Any, other: kdgraph.DistillModule, given: dict[str, Tensor]) -> None:
    there, here = results(other, given), results(step, given)
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)
    for name, value in there["outputs"].items():
        assert here["outputs"][name].stride() == value.stride()


def both(teacher: nn.Module, **how: Any) -> kdgraph.DistillModule:
    """Compiles with and without the pass and compares everything a step gives."""
    before = copy.deepcopy(teacher.state_dict())
    step, other = compiled(teacher, **how), compiled(teacher, without=["freeze"], **how)
    given = batch(how.get("size", 16), how.get("classes", 5))
    assert_same(step, other, given)
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)
    return step


def record(step: kdgraph.DistillModule) -> Record:
    (found,) = [r for r in step.report.records if r.name == "freeze"]
    return found


def teacher_nodes(step: kdgraph.DistillModule) -> list[fx.Node]:
    return [n for n in step.report.graph if n.meta["kd_owner"] == "teacher" and n.target is not tap]


def modules(step: kdgraph.DistillModule) -> list[nn.Module]:
    """What the teacher's part of the final graph calls, in order."""
    root = step.report.graph.root
    calls = [n for n in teacher_nodes(step) if n.op == "call_module"]
    return [root.get_submodule(str(n.target)) for n in calls]


def kinds(step: kdgraph.DistillModule) -> list[str]:
    return [type(m).__name__ for m in modules(step)]


def stack(*layers: nn.Module) -> nn.Module:
    """Layers between a stem and a head, one block of them behind a name."""
    body = nn.Sequential(*layers)
    return lived(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            body,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.LazyLinear(5),
        )
    )


def ready(net: nn.Module) -> nn.Module:
    """Fills in the size of the head."""
    with torch.no_grad():
        net(torch.zeros(2, 3, 16, 16))
    return net
