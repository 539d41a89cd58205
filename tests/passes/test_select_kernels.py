"""select_kernels: a loss is computed by its kernel where there is one, and equally elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.kernels import base
from kdgraph.kernels.base import Kernel
from kdgraph.losses.base import Loss
from kdgraph.passes._kernel_loss import KernelLoss
from kdgraph.passes.manager import Record
from kdgraph.spec.shapes import Shape

SIDES = {"student": "student.logits", "teacher": "teacher.logits"}
LOSSES: dict[str, Any] = {
    "soft": {"use": "soft_target", **SIDES, "tau": {"linear": [4.0, 1.0], "epochs": [0, 4]}},
    "back": {"use": "soft_target", **SIDES, "mask": "known", "weight": "trust"},
    "raw": {"use": "logit_mse", **SIDES},
}


class Counting(Kernel):
    """What soft_target computes itself, with a count of how often it was asked."""

    losses = ("soft_target",)

    def __init__(self) -> None:
        self.calls: list[set[str]] = []

    def declines(self, loss: Loss, **shapes: Shape) -> str | None:
        return None if shapes["student"][1] <= 5 else f"{shapes['student'][1]} classes"

    def run(self, loss: Loss, **inputs: Any) -> Tensor:
        self.calls.append(set(inputs))
        wide = {f: v.float() if f in self.sides else v for f, v in inputs.items()}
        return loss.rows(**{**wide, **{f: run() for f, run in loss.parts(**wide).items()}})


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """The only kernel there is, on a machine that runs kernels on the CPU."""
    made = Counting()
    base.KERNELS.names()
    monkeypatch.setattr(base.KERNELS, "_entries", {"counting": made})
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return made


def compiled(
    without: Collection[str] = (),
    classes: int = 5,
    losses: Mapping[str, Any] = LOSSES,
    **changes: Any,
) -> Any:
    torch.manual_seed(0)
    rows = {"shape": ["B"]}
    read = {value for loss in losses.values() for value in loss.values() if isinstance(value, str)}
    label = {"label": {**rows, "dtype": "int64", "classes": classes}}
    spec = {
        "kdgraph": 1,
        "name": "kernels",
        "batch": {"x": {"shape": ["B", 6]}, "known": rows, "trust": rows}
        | (label if "label" in read else {}),
        "models": {name: {"taps": {"logits": "output"}} for name in ("teacher", "student")},
        "losses": {name: {**loss, **changes} for name, loss in losses.items()},
    }
    nets = {"teacher": nn.Linear(6, classes), "student": nn.Linear(6, classes)}
    return kdgraph.compile(spec, models=nets, without=without)


def batch() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    trust = torch.tensor([1.0, 2.0, 0.0, 1.0])
    return {"x": torch.randn(4, 6, generator=random), "known": (trust < 2).float(), "trust": trust}


def results(step: kdgraph.DistillModule, given: dict[str, Tensor]) -> list[Tensor]:
    out = step(**given)
    return [out.loss, *out.losses.values(), *torch.autograd.grad(out.loss, step.parameters())]


def record(step: kdgraph.DistillModule) -> Record:
    (found,) = [r for r in step.report.records if r.name == "select_kernels"]
    return found


def test_a_kernel_takes_the_losses_it_knows(kernel: Counting) -> None:
    step = compiled()
    assert record(step).did == tuple(
        f"{edge}: counting on CUDA, its reference elsewhere" for edge in ("soft", "back")
    )
    given = batch()
    found = results(step, given)
    assert kernel.calls == 2 * [{"student", "teacher", "tau"}]
    for a, b in zip(found, results(compiled(["select_kernels"]), given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert len(kernel.calls) == 2


def test_an_edge_can_ask_for_its_reference(kernel: Counting) -> None:
    step = compiled(kernel="reference")
    step(**batch())
    assert kernel.calls == []
    assert record(step).declined == tuple(
        f"{edge}: left to its reference, as the edge says" for edge in ("soft", "back")
    )


def test_a_kernel_says_why_not(kernel: Counting) -> None:
    step = compiled(classes=6)
    assert record(step).declined[0] == "soft: counting: 6 classes"
    step(**batch())
    assert kernel.calls == []


def test_a_temperature_in_half_precision_is_squared_in_float32(kernel: Counting) -> None:
    (module,) = [m for m in compiled(losses={"soft": LOSSES["soft"]}).report.graph.root.modules()
                 if isinstance(m, KernelLoss)]  # fmt: skip
    logits = {side: torch.randn(3, 5) for side in ("student", "teacher")}
    tau = torch.tensor(300.0)
    torch.testing.assert_close(module(**logits, tau=tau.half()), module(**logits, tau=tau))
    assert len(kernel.calls) == 2


def test_other_tensors_get_the_reference(kernel: Counting) -> None:
    step = compiled().double()
    step(**{name: value.double() for name, value in batch().items()})
    assert kernel.calls == []


def test_transforms_of_functions_get_the_reference(kernel: Counting) -> None:
    step, given = compiled(), batch()
    values = {n: p.detach() for n, p in step.named_parameters()}
    grads = torch.func.grad(lambda v: torch.func.functional_call(step, v, (), given).loss)(values)
    assert kernel.calls == []
    for name, plain in zip(values, results(step, given)[4:], strict=True):
        torch.testing.assert_close(grads[name], plain, rtol=1e-5, atol=1e-7)


def test_without_a_device_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    base.KERNELS.names()
    monkeypatch.setattr(base.KERNELS, "_entries", {"counting": Counting()})
    step = compiled()
    assert not [m for m in step.modules() if isinstance(m, KernelLoss)]
    (first, *_) = record(step).declined
    assert first == "soft: counting would compute it on CUDA, which is not here"


def test_the_loss_stays_one_graph_for_compilers(kernel: Counting) -> None:
    step, given = compiled(), batch()
    torch.compiler.reset()
    fast = torch.compile(step, backend="eager", fullgraph=True)
    for a, b in zip(results(step, given), results(fast, given), strict=True):
        torch.testing.assert_close(a, b)


def test_labels_of_the_same_logits_come_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    calls: list[set[str]] = []

    def joined(loss: Loss, other: Loss, *, target: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        calls.append(set(inputs))
        parts = {field: run() for field, run in loss.parts(**inputs).items()}
        rows = loss.rows(**{**inputs, **parts})
        counted = target != other.ignore_index
        return rows, other.rows(student=inputs["student"], target=target).where(counted, 0)

    monkeypatch.setattr("kdgraph.passes._kernel_loss.joined", joined)
    label = {"use": "cross_entropy", "student": "student.logits", "target": "label"}
    losses = {
        "label": {**label, "ignore_index": 2, "weight": "trust"},
        "soft": {**LOSSES["soft"], "mask": "known"},
        "smooth": {**label, "smoothing": 0.1},
    }
    given = {**batch(), "label": torch.tensor([0, 1, 2, 4])}
    step, plain = (compiled(without, losses=losses) for without in ([], ["select_kernels"]))
    assert record(step).did == (
        "label, soft: softmax_rows, both at once on CUDA, their references elsewhere",
    )
    for a, b in zip(results(step, given), results(plain, given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert calls == [{"student", "teacher", "tau"}]
    wide = {n: v.double() if v.is_floating_point() else v for n, v in given.items()}
    for a, b in zip(results(step.double(), wide), results(plain.double(), wide), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    assert len(calls) == 1
