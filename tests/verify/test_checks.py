"""Each check is quiet where all is right, and sees what is broken on purpose."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdgraph.graph.ops import total
from kdgraph.graph.steer import Steer
from kdgraph.kernels.base import KERNELS, Kernel
from kdgraph.losses.base import Loss, RowLoss
from kdgraph.passes.base import PASSES, Pass
from kdgraph.runtime import module as runtime
from kdgraph.runtime.teachers import TeachersModule
from kdgraph.verify import CHECKS, compile, ranks
from kdgraph.verify._compare import Result
from kdgraph.verify._subject import Subject
from tests.verify.conftest import NETS, Checked, subject_of


@pytest.mark.parametrize("name", CHECKS.names())
def test_what_is_right_is_ok(
    name: str, checked: Checked, shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "together", lambda jobs: [shared[0]])
    monkeypatch.setattr(compile, "BACKEND", "eager")  # test_compile has another one
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    row = checked(name)
    assert CHECKS.get(name).summary
    if name == "kernel":
        assert row.status == "not applicable"
        return
    assert (row.status, row.why) == ("ok", None)
    assert row.tolerance == (0 if name in ("book", "resume", "teacher") else 1e-9)
    assert all(gap.relative <= 1e-12 for gap in row.gaps.values())


def test_ranks(small: Subject, shared: list[list[list[Result]]]) -> None:
    found = ranks.finding(small, ranks.job_of(small).splits, shared[0])
    assert max(gap.relative for gap in found.gaps.values()) < 1e-12
    assert found.compared == "1 process with 9 rows = 2 with 4 + 5 and with 6 + 3"
    assert found.notes == ("in eval mode: batch norms at their stored statistics",)


def test_a_relation_that_each_process_sees_for_itself_differs(
    local: Subject, shared: list[list[list[Result]]]
) -> None:
    found = ranks.finding(local, ranks.job_of(local).splits, shared[1])
    assert found.gaps["loss"].at == "relation"
    assert min(gap.relative for gap in found.gaps.values()) > 1e-4
    assert found.notes[-1] == "scope: rank, so on its own rows in each process: relation"


def test_accumulation_leaves_out_what_compares_rows(checked: Checked) -> None:
    assert checked("accumulation").notes == (
        "in eval mode: batch norms at their stored statistics",
        "left out, as by nature not equal: relation (relation compares rows)",
    )


def test_accumulation_sees_a_wrong_factor(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = runtime.window

    def never_averaged(across: Any, counting: Any, batches: Any, averaged: bool) -> Any:
        return window(across, counting, batches, False)

    monkeypatch.setattr(runtime, "window", never_averaged)
    row = checked("accumulation")
    assert row.status == "differs"
    assert row.gaps["loss"].relative == pytest.approx(0.5)


def test_a_signal_of_all_rows_leaves_its_edge_out(checked: Checked) -> None:
    signals = {
        "sure": {"use": "certainty", "of": "teacher.logits"},
        "share": {"use": "batch_weight", "of": "sure"},
        "less": {"use": "affine", "of": "share", "scale": 0.5},
    }
    subject = subject_of(("signals", signals), ("losses.soft.weight", "less"))
    row = checked("accumulation", subject)
    assert row.status == "ok"
    assert "soft (signal share reads rows together)" in row.notes[-1]


def test_resume_sees_forgotten_schedules(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = lambda self: torch.zeros(2, dtype=torch.float64)  # noqa: E731
    monkeypatch.setattr(Steer, "get_extra_state", forgetful)
    row = checked("resume")
    assert row.status == "differs"
    assert row.gaps["loss"].relative > 0.01


def test_resume_sees_a_forgotten_tensor(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    state_dict = runtime.DistillModule.state_dict

    def forgetful(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = state_dict(self, *args, **kwargs)
        state["models.student.2.running_mean"] = torch.zeros(8)
        return state

    monkeypatch.setattr(runtime.DistillModule, "state_dict", forgetful)
    assert checked("resume").status == "ok", "the state is compared as it is written"
    monkeypatch.setattr(
        runtime.DistillModule, "load_state_dict", lambda self, state: None
    )  # nothing is loaded
    row = checked("resume")
    assert row.status == "differs"
    assert row.gaps["weights"].relative > 1e-3


def test_book_sees_a_changed_value(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = TeachersModule.forward

    def off(self: TeachersModule, **batch: Tensor) -> dict[str, Tensor]:
        return {ref: value * (1 + 1e-6) for ref, value in forward(self, **batch).items()}

    monkeypatch.setattr(TeachersModule, "forward", off)
    row = checked("book")
    assert row.status == "differs"
    assert 0 < row.gaps["loss"].relative < 1e-3


def test_book_of_what_is_kept_with_loss_is_compared_as_float32(checked: Checked) -> None:
    lossy = {"teacher.logits": {"dtype": "float16"}, "teacher.mid": {}}
    row = checked("book", subject_of(("book.store", lossy)))
    assert row.status == "ok"
    assert row.notes[-1] == "kept as float32 here: teacher.logits"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ([("data", None), ("train", None), ("book", None)], "no `data` block"),
        ([("book", None)], "`augment` changes rows at random"),
        ([("models.teacher.batch_statistics", True), ("book", None)], "nothing for a book: 'tea"),
    ],
)
def test_what_no_book_can_be_built_of(checked: Checked, changes: Any, why: str) -> None:
    row = checked("book", subject_of(*changes))
    assert row.status == "not applicable"
    assert row.why is not None
    assert why in row.why
    assert row.compared == "A step on a book = a step with its teachers, bit for bit in float32"


def backend(name: str, by: float) -> str:
    """A backend of ``torch.compile`` whose gradients are multiplied."""
    from torch._dynamo import register_backend
    from torch._dynamo.backends.common import aot_autograd

    def backward(program: Any, inputs: Any) -> Callable[..., list[Any]]:
        return lambda *args: [g if g is None else g * by for g in program(*args)]

    def forward(program: Any, inputs: Any) -> Any:
        return program

    made = aot_autograd(fw_compiler=forward, bw_compiler=backward)
    if name not in torch.compiler.list_backends():
        register_backend(compiler_fn=made, name=name)
    return name


@pytest.mark.parametrize(("by", "status"), [(1.0, "ok"), (1.001, "differs")])
def test_compile(by: float, status: str, checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "BACKEND", backend(f"times_{by:g}".replace(".", "_"), by))
    row = checked("compile")
    assert (row.status, row.why) == (status, None)
    assert row.gaps["loss"].relative < 1e-12
    assert row.gaps["gradients"].relative == pytest.approx(by - 1, abs=1e-12)


def test_compile_says_nothing_beside_the_table(
    checked: Checked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def tells(step: Any, backend: str) -> Any:
        logging.getLogger("torch._dynamo").warning("a graph break")
        return step

    monkeypatch.setattr(torch, "compile", tells)
    assert checked("compile").status == "ok"
    assert caplog.messages == []


def test_compile_without_a_compiler(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def none() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    row = checked("compile")
    assert row.status == "not applicable"
    assert row.why == "inductor needs a C++ compiler, and there is none"


def test_passes_see_one_that_changes_a_number(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warmer(graph: Any, context: Any) -> Any:
        (end,) = graph.graph.find_nodes(op="call_function", target=total)
        values, (first, *others) = end.args
        end.args = (values, [first * 1.001, *others])
        return graph

    checked("passes")  # finds all passes
    monkeypatch.setitem(PASSES._entries, "warmer", Pass("warmer", warmer, "attach_losses"))
    row = checked("passes")
    assert row.status == "differs"
    assert row.gaps["loss"].at == "(total)"


def test_teacher_sees_a_buffer_that_moves(checked: Checked) -> None:
    net = {"source": f"python/{NETS}:Counts", "taps": {"logits": "output"}}
    subject = subject_of(("models.teacher", net), ("losses.relation", None), ("book", None))
    row = checked("teacher", subject)
    assert row.status == "differs"
    assert row.gaps["weights"].at == "teacher.seen"


def test_teacher_without_one(checked: Checked) -> None:
    subject = subject_of(
        ("models.teacher", None), ("losses.soft", None), ("losses.relation", None), ("book", None)
    )
    assert checked("teacher", subject).why == "no model of this spec is frozen"


class Plain(Kernel):
    """Soft targets by torch, off by a factor."""

    losses = ("soft_target",)
    by = 1.0

    def run(self, loss: Loss, **inputs: Any) -> Tensor:
        assert isinstance(loss, RowLoss)
        inputs |= {field: part() for field, part in loss.parts(**inputs).items()}
        return loss.rows(**inputs) * self.by


@pytest.mark.parametrize(("by", "status"), [(1.0, "ok"), (1.01, "differs")])
def test_kernel(by: float, status: str, checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    KERNELS.names()
    fake = Plain()
    fake.by = by
    monkeypatch.setattr(KERNELS, "_entries", {"plain": fake})
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    row = checked("kernel", subject_of(("losses.label", None)))
    assert (row.status, row.why) == (status, None)
    assert row.gaps["loss"].relative == pytest.approx(by - 1, abs=1e-6)


def test_kernel_on_the_cpu(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert checked("kernel").status == "not applicable"


def test_what_rounds_in_float32_is_compared_so(checked: Checked) -> None:
    net = {"source": f"python/{NETS}:Narrow", "taps": {"logits": "output"}}
    subject = subject_of(("models.student", net), ("losses.relation", None))
    assert not subject.double
    row = checked("accumulation", subject)
    assert (row.status, row.tolerance) == ("ok", 1e-3)


def test_a_batch_that_is_too_small(checked: Checked, small: Subject) -> None:
    row = checked("accumulation", replace(small, micro=4))
    assert row.why == "9 rows are too few for 4 uneven parts"


def test_an_error_of_one_check_is_one_row(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: Any, batches: Any, averaged: bool = False) -> None:
        raise RuntimeError("out of order\nand more")

    monkeypatch.setattr(runtime.DistillModule, "window", breaks)
    row = checked("accumulation")
    assert (row.status, row.why) == ("failed", "RuntimeError: out of order")
