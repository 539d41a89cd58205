"""share_parts: what two losses compute of one tensor is computed once."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import kdgraph
from kdgraph.losses._module import LossModule
from kdgraph.losses.similarity import similarities
from kdgraph.passes.base import PASSES
from kdgraph.visual.python import python

OTHERS = [name for name in PASSES.names() if name not in ("prune", "merge", "share_parts")]


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped there
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped there
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def edges(**losses: dict[str, Any]) -> dict[str, Any]:
    taps = {"mid": "0", "logits": "output"}
    return {
        "kdgraph": 1,
        "name": "parts",
        "batch": {"x": {"shape": ["B", 6]}, "trust": {"shape": ["B"]}},
        "models": {"teacher": {"taps": taps}, "student": {"taps": taps}},
        "losses": losses,
    }


def logits(use: str, **keys: Any) -> dict[str, Any]:
    return {"use": use, "student": "student.logits", "teacher": "teacher.logits", **keys}


def features(use: str, student: str = "student.mid", **keys: Any) -> dict[str, Any]:
    return {"use": use, "student": student, "teacher": "teacher.mid", **keys}


def step_of(spec: dict[str, Any], *without: str) -> kdgraph.DistillModule:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4))
    student = nn.Sequential(nn.Linear(6, 3), nn.GELU(), nn.Linear(3, 4))
    models = {"teacher": teacher, "student": student}
    return kdgraph.compile(spec, models=models, without=[*OTHERS, *without])


def batch() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    trust = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0])
    return {"x": torch.randn(5, 6, generator=random), "trust": trust}


def results(step: kdgraph.DistillModule) -> dict[str, Any]:
    out = step(**batch())
    step.zero_grad()
    out.loss.backward()
    return {"loss": out.loss, **out.losses, **{n: p.grad for n, p in step.named_parameters()}}


def calls(step: kdgraph.DistillModule) -> Counter[str]:
    mode = Calls()
    with mode:
        step(**batch())
    return mode.count


SHARED = {
    "one temperature": edges(
        soft=logits("soft_target", tau=2.0), dist=logits("dist", tau=2.0, weight=0.3)
    ),
    "one side": edges(
        soft=logits("soft_target", tau=2.0),
        other=logits("soft_target", tau=2.0, tau_student=3.0, weight=0.5),
    ),
    "one teacher": edges(
        near=features("similarity"), far=features("similarity", "student.logits", weight=0.5)
    ),
    "weighted rows": edges(
        soft=logits("soft_target", tau=2.0, weight="trust"),
        part=logits("soft_target", tau=2.0, mask="trust", reduction="batchmean"),
    ),
}


@pytest.mark.parametrize("spec", SHARED.values(), ids=SHARED)
def test_numbers_and_gradients_stay(spec: dict[str, Any]) -> None:
    with_it, without_it = step_of(spec), step_of(spec, "share_parts")
    assert [n for n in with_it.report.graph if str(n.target).startswith("rewritten.")]
    torch.testing.assert_close(results(with_it), results(without_it), rtol=1e-5, atol=1e-7)


def test_one_softmax_per_tensor_and_temperature() -> None:
    spec = SHARED["one temperature"]
    assert calls(step_of(spec, "share_parts"))["_log_softmax"] == 4
    assert calls(step_of(spec))["_log_softmax"] == 2
    assert calls(step_of(SHARED["one side"]))["_log_softmax"] == 3


def test_links_and_taps_of_one_value_share() -> None:
    spec = edges(near=features("similarity"), soft=features("pkt"))
    spec["links"] = {
        "mid": {"student": "student.mid", "teacher": "teacher.mid", "adapter": "identity"}
    }
    spec["losses"]["near"] = {"use": "similarity", "link": "mid"}
    spec["losses"]["far"] = features("similarity", "student.logits")
    step = step_of(spec)
    shared = step.report.graph.graph.find_nodes(op="call_function", target=similarities)
    assert len(shared) == 1
    (line,) = next(r.did for r in step.report.records if r.name == "share_parts")
    assert line == "far, near: similarities of teacher.mid computed once"


def test_what_nobody_shares_stays_in_its_loss() -> None:
    spec = edges(soft=logits("soft_target", tau=2.0), dist=logits("dist", tau=1.0))
    step = step_of(spec)
    targets = [str(n.target) for n in step.report.graph if n.op == "call_module"]
    assert {"losses.soft", "losses.dist"} <= set(targets)
    moving = {"linear": [4.0, 1.0], "epochs": [0, 5]}
    spec = edges(soft=logits("soft_target", tau=moving), dist=logits("dist", tau=moving))
    assert not [n for n in step_of(spec).report.graph if str(n.target).startswith("rewritten")]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_shared_part_is_as_precise_as_the_loss(dtype: torch.dtype) -> None:
    x = torch.full((2, 4), 300.0, dtype=dtype)
    assert similarities(x).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert similarities(torch.randn(2, 4)).dtype == torch.float32


def test_under_autocast_numbers_stay() -> None:
    spec = SHARED["one teacher"]
    found = []
    for step in (step_of(spec), step_of(spec, "share_parts")):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(step(**batch()).losses)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_a_prepared_loss_computes_the_rest_itself() -> None:
    step = step_of(SHARED["one teacher"])
    loss = cast(LossModule, step.losses["near"]).loss
    student, teacher = torch.randn(2, 3, 4)
    whole = LossModule(loss, {})(student=student, teacher=teacher)
    half = LossModule(loss, {}, prepared=["teacher"])
    assert torch.equal(whole, half(student=student, teacher=similarities(teacher)))


def test_the_written_program_runs() -> None:
    step = step_of(SHARED["one temperature"])
    source = python(step.report)
    assert "kdgraph.losses._part.log_probabilities" in source
    namespace: dict[str, Any] = {}
    exec(compile(source, "graph.py", "exec"), namespace)
    again = namespace["DistillStep"](step.report.graph.root)
    assert torch.equal(again(**batch())["loss"], step(**batch()).loss)


def test_one_graph_under_compile() -> None:
    step = step_of(SHARED["one temperature"])
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**batch()).loss, step(**batch()).loss)
