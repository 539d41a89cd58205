"""overlap: frozen models come first, between a fork and a join, and no number changes."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.graph import role_of, streams
from kdgraph.graph.ops import tap
from kdgraph.graph.verify import verify
from kdgraph.passes.base import PASSES, Context
from kdgraph.passes.pipeline import pipeline
from kdgraph.visual.python import python

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "beside",
    "batch": {"image": {"shape": ["B", 3, 8, 8]}, "label": {"shape": ["B"], "dtype": "int64"}},
    "models": {
        "teacher": {"taps": {"mid": "2", "logits": "output"}},
        "second": {"taps": {"logits": "output"}},
        "student": {"taps": {"mid": "2", "logits": "output"}},
    },
    "links": {"mid": {"student": "student.mid", "teacher": "teacher.mid", "adapter": "auto"}},
    "signals": {"both": {"use": "ensemble", "of": ["teacher.logits", "second.logits"]}},
    "losses": {
        "task": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "both"},
        "mid": {"use": "hint", "link": "mid"},
    },
}


def net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(),
        nn.Linear(36 * width, 4),
    )  # fmt: skip


@cache
def compiled(*also: str) -> kdgraph.DistillModule:
    torch.manual_seed(0)
    models = {"teacher": net(6), "second": net(5), "student": net(4)}
    return kdgraph.compile(SPEC, models=models, also=also)


def batch(device: str = "cpu") -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    label = torch.tensor([0, 1, 2, 3])
    image = torch.randn(4, 3, 8, 8, generator=random)
    return {"image": image.to(device), "label": label.to(device)}


def loss_and_gradients(step: kdgraph.DistillModule, device: str = "cpu") -> list[Tensor]:
    loss = step(**batch(device)).loss
    return [loss, *torch.autograd.grad(loss, list(step.parameters()))]


def test_off_unless_asked_for() -> None:
    assert PASSES.get("overlap").default is False
    assert "overlap" not in [p.name for p in pipeline()]
    assert pipeline(also=["overlap"])[-1].name == "overlap"


def test_frozen_models_first_and_joined_for_the_first_reader() -> None:
    graph = compiled("overlap").report.graph
    assert verify(graph) == []
    nodes = [n for n in graph if n.op not in ("placeholder", "output")]
    at = {n.target: i for i, n in enumerate(nodes) if n.target in vars(streams).values()}
    entered, left, joined = at[streams.fork], at[streams.leave], at[streams.join]
    assert entered == 0
    assert {role_of(n) for n in nodes[:left]} == {"teacher"}
    beside = nodes[left + 1 : joined]
    assert {role_of(n) for n in beside} == {"student"}
    frozen = {n for n in nodes[:left] if n.target is not streams.fork}
    for node in nodes[left + 1 :]:  # nobody reads what may not be there yet
        assert not frozen & {*node.all_input_nodes}, node
    taps = [n for n in nodes if n.target is tap and role_of(n) == "teacher"]
    assert len(taps) == 4  # three taps, and the teacher's side of the link
    assert all(nodes.index(n) > joined for n in taps)


def test_no_number_changes() -> None:
    for got, expected in zip(
        loss_and_gradients(compiled("overlap")), loss_and_gradients(compiled()), strict=True
    ):
        assert torch.equal(got, expected)


def test_as_one_graph_of_torch() -> None:
    whole = torch.compile(compiled("overlap"), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(**batch()).loss, compiled()(**batch()).loss)


def test_a_second_run_changes_nothing() -> None:
    graph = compiled("overlap").report.graph
    again = PASSES.get("overlap").run(graph.copy(), Context(graph.spec))
    assert str(again) == str(graph)


def test_the_printed_step_runs(tmp_path: Path) -> None:
    step = compiled("overlap")
    (tmp_path / "beside.py").write_text(python(step.report))
    found = importlib.util.spec_from_file_location("beside", tmp_path / "beside.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    printed = module.DistillStep(step.report.graph.root)
    assert torch.equal(printed(**batch())["loss"], step(**batch()).loss)


class Device:
    """Stands in for CUDA: notes on which stream what was done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current, self.log = "main", list[str]()
        monkeypatch.setattr(streams, "_device", lambda values: torch.device("cuda:0"))
        monkeypatch.setattr(streams, "_side", lambda device: self.stream("side"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.stream(self.current))
        monkeypatch.setattr(torch.cuda, "set_stream", self.go)
        note = lambda value, stream: self.log.append(f"{stream} reads")  # noqa: E731
        monkeypatch.setattr(Tensor, "record_stream", note)

    def go(self, stream: Any) -> None:
        self.current = str(stream)
        self.log.append(f"on {stream}")

    def stream(self, name: str) -> Any:
        log = self.log

        class Stream:
            def wait_stream(self, other: object) -> None:
                log.append(f"{name} waits for {other}")

            def __str__(self) -> str:
                return name

        return Stream()


def test_what_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    values = [torch.zeros(2), torch.ones(2)]
    assert streams.fork(values[:1])[0] is values[0]
    assert streams.leave(values)[1] is values[1]
    assert streams.join(values)[1] is values[1]
    assert device.log == [
        *("side waits for main", "side reads", "on side"),
        "on main",
        *("main waits for side", "main reads", "main reads"),
    ]


def test_an_error_beside_does_not_leave_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    step, device = compiled("overlap"), Device(monkeypatch)
    program = step._programs[step.training]
    place = next(str(n.target) for n in program.graph.nodes if n.op == "call_module")
    module = program.get_submodule(place)

    def broken(*args: Any) -> Tensor:
        assert device.current == "side"
        raise MemoryError

    monkeypatch.setattr(module, "forward", broken)
    with pytest.raises(MemoryError):
        step(**batch())
    assert device.current == "main"
    assert streams._left() == []


def test_writes_in_place_keep_the_order() -> None:
    graph = compiled().report.graph.copy()
    next(n for n in graph if n.op == "call_module").meta["kd_mutates"] = True
    context = Context(graph.spec)
    assert str(PASSES.get("overlap").run(graph.copy(), context)) == str(graph)
    assert "in place" in context.declined[0]


@pytest.mark.gpu
def test_the_same_numbers_on_a_gpu() -> None:
    plain, beside = (compiled.__wrapped__(*also).cuda() for also in ((), ("overlap",)))
    for _ in range(3):
        for got, expected in zip(
            loss_and_gradients(beside, "cuda"), loss_and_gradients(plain, "cuda"), strict=True
        ):
            torch.testing.assert_close(got, expected)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
