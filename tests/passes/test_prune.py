"""prune: teacher code past its last tap is not in the graph and never runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import kdgraph


def spec(tap: str) -> dict[str, Any]:
    return {
        "kdgraph": 1,
        "name": "half",
        "batch": {"image": {"shape": ["B", 3, 32, 32]}},
        "models": {
            "teacher": {"source": "timm/resnet26", "taps": {"mid": tap}},
            "student": {"source": "cifar/resnet8", "taps": {"mid": "layer2"}},
        },
        "links": {"mid": {"student": "student.mid", "teacher": "teacher.mid"}},
        "losses": {"hint": {"use": "hint", "link": "mid"}},
    }


@pytest.fixture
def teacher() -> nn.Module:
    import timm

    return timm.create_model("resnet26", pretrained=False)


def test_parameters_past_the_tap_never_run(teacher: nn.Module) -> None:
    calls: list[str] = []
    for name, child in teacher.named_children():
        plain = child.forward

        def counted(*args: Any, name: str = name, plain: Any = plain) -> Any:
            calls.append(name)
            return plain(*args)

        child.forward = counted  # type: ignore[method-assign]
    step = kdgraph.compile(spec("layer2"), models={"teacher": teacher}, without=["freeze"])
    calls.clear()
    step(image=torch.randn(2, 3, 32, 32))
    # act1, an in-place activation, has become a function
    assert calls == ["conv1", "bn1", "maxpool", "layer1", "layer2"]
    assert [n for n, _ in step._frozen[0].named_children()] == calls


def test_flops_are_those_of_the_part_that_is_tapped(teacher: nn.Module) -> None:
    image = torch.randn(2, 3, 32, 32)
    step = kdgraph.compile(spec("layer2"), models={"teacher": teacher}).eval()

    def flops(run: Any) -> int:
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            run()
        return counter.get_total_flops()

    def half() -> None:
        x = teacher.maxpool(teacher.act1(teacher.bn1(teacher.conv1(image))))
        teacher.layer2(teacher.layer1(x))

    def student() -> None:
        f = step.student
        f.layer2(f.layer1(f.relu(f.bn1(f.conv1(image)))))
        step.adapters["mid"](torch.zeros(2, 32, 16, 16))

    whole = flops(lambda: teacher(image))
    assert flops(lambda: step(image=image)) == flops(half) + flops(student)
    assert flops(half) < 0.6 * whole


def test_it_says_what_it_removed_and_can_be_left_out(teacher: nn.Module) -> None:
    full = kdgraph.compile(spec("layer2"), models={"teacher": teacher}, without=["prune"])
    step = kdgraph.compile(spec("layer2"), models={"teacher": teacher, "student": full.student})
    step.adapters.load_state_dict(full.adapters.state_dict())
    record = next(r for r in step.report.records if r.name == "prune")
    assert any(line.startswith("teacher: ") and "removed" in line for line in record.did)
    image = torch.randn(2, 3, 32, 32)
    full.eval(), step.eval()
    assert torch.equal(full(image=image).loss, step(image=image).loss)


def test_running_it_twice_changes_nothing(teacher: nn.Module) -> None:
    from kdgraph.passes import prune
    from kdgraph.passes.base import Context

    graph = kdgraph.compile(spec("layer2"), models={"teacher": teacher}).report.graph
    assert str(prune.run(graph.copy(), Context(graph.spec))) == str(graph)
