from __future__ import annotations

from typing import Any

import pytest
import torch

import kdgraph
from kdgraph.models import SOURCES
from kdgraph.models.load import build_model, build_skeleton

EXAMPLE = ("fcn", {"num_classes": 4, "width": 0.25})

every_net = pytest.mark.parametrize("name", SOURCES.get("segment").names())


@every_net
@pytest.mark.parametrize("size", [(64, 64), (33, 50), (16, 16)])
def test_a_class_for_every_pixel(name: str, size: tuple[int, int]) -> None:
    model = build_model(f"segment/{name}", {"num_classes": 5, "width": 0.25, "in_channels": 1})
    assert model(torch.randn(2, 1, *size)).shape == (2, 5, *size)


@every_net
def test_stages_halve_the_map(name: str) -> None:
    model = build_model(f"segment/{name}", {"width": 0.5})
    shapes: dict[str, tuple[int, ...]] = {}
    taps = [*(f"encoder.{i}" for i in range(4)), "decoder", "classifier"]
    for tap in taps:
        model.get_submodule(tap).register_forward_hook(
            lambda _module, _inputs, out, tap=tap: shapes.update({tap: tuple(out.shape[1:])})
        )
    model(torch.randn(2, 3, 64, 64))
    assert [shapes[t] for t in taps[:4]] == [(8, 16, 16), (16, 8, 8), (32, 4, 4), (64, 2, 2)]
    decoded, side = {"unet": (8, 16), "fcn": (16, 8)}[name]
    assert shapes["decoder"] == (decoded, side, side)
    assert shapes["classifier"] == (11, side, side)


def test_sizes() -> None:
    def parameters(name: str, **args: Any) -> int:
        return sum(p.numel() for p in build_skeleton(f"segment/{name}", args).parameters())

    assert parameters("unet") == 488_171
    assert parameters("fcn") == 301_691
    assert parameters("fcn", width=0.25) == 19_223


def spec(teacher: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    """A pair of networks whose maps are compared pixel by pixel."""
    return {
        "kdgraph": 1,
        "name": "pixels",
        "batch": {
            "image": {"shape": ["B", 3, 64, 64]},
            "label": {"shape": ["B", 64, 64], "dtype": "int64", "classes": 11},
        },
        "models": {"teacher": teacher, "student": student},
        "losses": {
            "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
            "soft": {
                "use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"
            },
        },
    }  # fmt: skip


@every_net
def test_every_part_can_be_tapped(name: str) -> None:
    parts = {"deep": "encoder.3", "features": "decoder", "small": "classifier"}
    taps = {"logits": "output", **parts}
    own = {"source": f"segment/{name}", "args": {"width": 0.25}, "taps": taps}
    text = spec(own, own)
    for part in parts:
        text["losses"][part] = {
            "use": "hint", "student": f"student.{part}", "teacher": f"teacher.{part}"
        }  # fmt: skip
    step = kdgraph.compile(text)
    out = step(image=torch.randn(2, 3, 64, 64), label=torch.zeros(2, 64, 64, dtype=torch.int64))
    assert {f"student.{tap}" for tap in taps} <= set(out.outputs)
    out.loss.backward()
    assert all(p.grad is not None for p in step.parameters())


def test_outputs_of_torchvision_are_reached_by_name() -> None:
    keys = {"weights": None, "weights_backbone": None, "num_classes": 11}
    torchvision = {
        "source": "torchvision/lraspp_mobilenet_v3_large", "args": keys,
        "taps": {"logits": "output.out"},
    }  # fmt: skip
    student = {"source": "segment/fcn", "args": {"width": 0.25}, "taps": {"logits": "output"}}
    assert kdgraph.check(spec(torchvision, student)) == []
