from __future__ import annotations

import importlib
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kdgraph.kernels._chunks import Head, pieces
from kdgraph.kernels.linear_soft_target import linear_soft_target, linear_sparse_soft_target
from kdgraph.losses._math import divergence
from kdgraph.losses.soft_target import SoftTarget
from kdgraph.losses.sparse_soft_target import SparseSoftTarget

OPS = torch.ops.kdgraph
WEIGHT = torch.tensor([1.0, 0.5, 0.0, 2.0, 1e-4, 1.0, 3.0])
SMALL = 4 * 2 * 64 * 3  # bytes for three rows of up to 64 classes on both sides


def head(
    classes: int, width: int, *, rows: int = 7, bias: bool = False, factor: float = 1.0,
    cap: float = 0.0, dtype: torch.dtype = torch.float32, seed: int = 0,
) -> Head:  # fmt: skip
    """States and weights whose logits have a standard deviation of 5."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(dtype)

    weight = (normal(classes, width) * 5 / width**0.5).to(dtype)
    return Head(normal(rows, width), weight, normal(classes) if bias else None, factor, cap)


def trained(head: Head, dtype: torch.dtype | None = None) -> Head:
    """With leaves of its own, of another type too."""

    def leaf(x: Tensor | None) -> Any:
        return x if x is None else x.detach().to(dtype or x.dtype).clone().requires_grad_()

    return head._replace(hidden=leaf(head.hidden), weight=leaf(head.weight), bias=leaf(head.bias))


def logits(head: Head, classes: int) -> Tensor:
    """All of them at once, of the first classes."""
    x = head.hidden @ head.weight[:classes].mT
    x = x if head.bias is None else x + head.bias[:classes]
    x = x * head.factor
    return head.cap * (x / head.cap).tanh() if head.cap else x


def grads(head: Head) -> list[Tensor]:
    return [x.grad for x in head[:3] if x is not None]  # type: ignore[misc]


def check(
    got: tuple[Tensor, Tensor], student: Head, rows: Tensor, weight: Tensor, exact: Head,
    loss: float = 1e-5, grad: float = 1e-5,
) -> None:  # fmt: skip
    """A sum and its gradients against rows that float64 has made from all logits."""
    counts = weight != 0
    wanted = (rows.where(counts, 0) * weight).sum()
    got[0].backward()
    wanted.backward()
    assert (got[1] == 0)[~counts].all()
    for a, b in ((got[0], wanted), (got[1], rows.where(counts, 0))):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.detach().double(), b.detach(), rtol=loss, atol=0)
    for a, b in zip(grads(student), grads(exact), strict=True):
        assert (a - b).norm() <= grad * b.norm()
        assert (a - b).abs().amax() <= grad * b.abs().amax()


@pytest.mark.parametrize("tau", [0.25, 1.0, 4.0, 20.0, 100.0])
@pytest.mark.parametrize("classes", [2, 50])
def test_against_all_logits_in_float64(classes: int, tau: float) -> None:
    student, teacher = trained(head(classes, 8)), head(classes, 12, seed=1)
    exact, other = trained(student, torch.float64), trained(teacher, torch.float64)
    got = linear_soft_target(student, teacher, tau, row_weight=WEIGHT, workspace=SMALL)
    loss = SoftTarget(student="a.b", teacher="c.d", scale=False)
    wide = {"student": logits(exact, classes), "teacher": logits(other, classes).detach()}
    parts = {side: run() for side, run in loss.parts(**wide, tau=tau).items()}
    check(got, student, loss.rows(**parts, tau=tau), WEIGHT, exact)


SHAPES = {
    "more student classes": ({"classes": 50}, {"classes": 37}),
    "more teacher classes": ({"classes": 33}, {"classes": 50}),
    "bias": ({"classes": 40, "bias": True}, {"classes": 40}),
    "both biased": ({"classes": 40, "bias": True}, {"classes": 41, "bias": True}),
    "soft cap": ({"classes": 40, "cap": 5.0}, {"classes": 40, "cap": 30.0}),
    "factor": ({"classes": 40, "factor": 0.125}, {"classes": 40, "factor": 2.0}),
    "all": ({"classes": 40, "factor": 0.5, "bias": True, "cap": 9.0}, {"classes": 30, "cap": 30.0}),
    "one class": ({"classes": 1}, {"classes": 1}),
    "wide": ({"classes": 4100}, {"classes": 4097, "bias": True}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_heads(name: str) -> None:
    own, its = SHAPES[name]
    student, teacher = trained(head(width=8, **own)), head(width=12, seed=1, **its)
    exact, other = trained(student, torch.float64), trained(teacher, torch.float64)
    tau, tau_student = torch.tensor(2.0), 3.0
    got = linear_soft_target(student, teacher, tau, tau_student, WEIGHT, SMALL * 80)
    common = min(student.classes, teacher.classes)
    p, q = logits(other, common).detach() / tau, logits(exact, common) / tau_student
    rows = divergence(p.log_softmax(1), q.log_softmax(1)).sum(1)
    check(got, student, rows, WEIGHT, exact)
    assert (student.weight.grad[common:] == 0).all()  # type: ignore[index]


@pytest.mark.parametrize("tail", ["bucket", "zero"])
@pytest.mark.parametrize("name", ["bias", "soft cap", "factor", "one class", "wide"])
def test_a_teacher_of_k_classes(name: str, tail: str) -> None:
    student = trained(head(width=8, **SHAPES[name][0]))
    exact = trained(student, torch.float64)
    teacher = logits(head(student.classes, 12, seed=1), student.classes)
    values, ids = teacher.log_softmax(1).topk(min(5, student.classes))
    if student.classes > 1:
        values[1, 3:], values[3] = -float("inf"), -float("inf")
    got = linear_sparse_soft_target(student, values, ids, 2.0, tail, WEIGHT, SMALL * 40)
    loss = SparseSoftTarget(student="a.b", values="v", ids="i", tail=tail, scale=False)
    z = logits(exact, student.classes)
    rows = loss.rows(student=z, values=values.double(), ids=ids, tau=2.0)
    if tail == "bucket":
        rows = rows.where(rows.abs() > 1e-14, 0)  # what rounding leaves where nothing is listed
    counts = (values != -float("inf")).any(1)
    keep = WEIGHT.where(counts, 0)
    got = (got[0], got[1].where(counts, 0))
    check(got, student, rows, keep, exact)


@pytest.mark.parametrize(("dtype", "grad"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision_keeps_its_logits_in_float32(dtype: torch.dtype, grad: float) -> None:
    """The values have the digits of float32; rounded logits would be off by 1e-2 and more."""
    student = trained(head(50, 8, dtype=dtype, bias=True))
    teacher = head(50, 12, dtype=dtype, seed=1)
    exact, other = trained(student, torch.float64), trained(teacher, torch.float64)
    got = linear_soft_target(student, teacher, 2.0, row_weight=WEIGHT, workspace=SMALL)
    p, q = (logits(x, 50) / 2 for x in (other, exact))
    rows = divergence(p.detach().log_softmax(1), q.log_softmax(1)).sum(1)
    check(got, student, rows, WEIGHT, exact, 1e-5, grad)


def test_small_weights_of_rows_are_not_lost_in_float16() -> None:
    student, teacher = trained(head(50, 8, dtype=torch.float16)), head(50, 12, seed=1)
    exact, other = trained(student, torch.float64), trained(teacher, torch.float64)
    weight = WEIGHT * 1e-6
    total, _ = linear_soft_target(student, teacher, 2.0, row_weight=weight, workspace=SMALL)
    (total * 2**16).backward()
    p, q = (logits(x, 50) / 2 for x in (other, exact))
    rows = divergence(p.detach().log_softmax(1), q.log_softmax(1)).sum(1)
    ((rows * weight).sum() * 2**16).backward()
    for a, b in zip(grads(student), grads(exact), strict=True):
        assert (a - b).norm() <= 2e-3 * b.norm()


def test_a_student_that_nearly_equals_its_teacher() -> None:
    """Products in float32 are off by 1e-7 of the logits: of a gap of 1e-3 that is 1e-3."""
    teacher = head(300, 16)
    student = trained(teacher._replace(weight=teacher.weight + 1e-3 * head(300, 16, seed=1).weight))
    exact, other = trained(student, torch.float64), trained(teacher, torch.float64)
    got = linear_soft_target(student, teacher, 1.0, row_weight=WEIGHT)
    p, q = (logits(x, 300) for x in (other, exact))
    rows = divergence(p.detach().log_softmax(1), q.log_softmax(1)).sum(1)
    check(got, student, rows, WEIGHT, exact, 1e-3, 1e-3)


def test_chunks_do_not_change_the_numbers() -> None:
    results = []
    for workspace in (1, SMALL, 2**30):
        student, teacher = trained(head(50, 8, bias=True)), head(50, 12, seed=1)
        total, rows = linear_soft_target(student, teacher, 2.0, None, WEIGHT, workspace)
        total.backward()
        results.append((total.detach(), rows, *grads(student)))
    for one, other in itertools.pairwise(results):
        torch.testing.assert_close(one, other)


def test_pieces() -> None:
    assert pieces(8192, 4 * 2 * 128256, 2**30)[0] == slice(0, 1024)
    for rows, size, workspace in [(0, 4, 99), (5, 400, 1), (1000, 4, 4 * 300), (300, 8, 2**30)]:
        parts = pieces(rows, size, workspace)
        assert [i for p in parts for i in range(p.start, p.stop)] == list(range(rows))
        assert all(p.stop - p.start <= max(workspace // size, 1) for p in parts)


def test_rows_that_are_left_out_may_hold_nan() -> None:
    student, teacher = head(50, 8), head(50, 12, seed=1)
    for side in (student, teacher):
        side.hidden[2] = float("nan")
    student = trained(student)
    total, rows = linear_soft_target(student, teacher, 2.0, row_weight=WEIGHT, workspace=SMALL)
    total.backward()
    assert rows.isfinite().all()
    assert all(g.isfinite().all() for g in grads(student))
    assert (grads(student)[0][2] == 0).all()


def test_all_rows_left_out_and_no_rows() -> None:
    for rows, weight in ((7, torch.zeros(7)), (0, torch.zeros(0))):
        student, teacher = trained(head(50, 8, rows=rows, bias=True)), head(50, 12, rows=rows)
        total, values = linear_soft_target(student, teacher, 2.0, row_weight=weight)
        total.backward()
        assert total == 0
        assert (values == 0).all()
        assert all((g == 0).all() for g in grads(student))


def test_nan_in_nan_out() -> None:
    for at in (0, 1):
        sides = [head(50, 8), head(50, 12, seed=1)]
        sides[at].hidden[3, 1] = float("nan")
        student = trained(sides[0])
        total, rows = linear_soft_target(student, sides[1], 2.0, row_weight=WEIGHT)
        total.backward()
        assert rows.isnan().tolist() == [i == 3 for i in range(7)]
        assert student.hidden.grad[3].isnan().all()  # type: ignore[index]


def test_masked_classes() -> None:
    bias = torch.zeros(50)
    bias[7:20] = -float("inf")
    student, teacher = head(50, 8), head(50, 12, seed=1)
    masked = teacher._replace(bias=bias)
    _, rows = linear_soft_target(trained(student), masked, 2.0)
    assert rows.isfinite().all()
    _, rows = linear_soft_target(student._replace(bias=bias), teacher, 2.0)
    assert (rows == float("inf")).all()
    _, rows = linear_soft_target(student._replace(bias=bias), masked, 2.0)
    assert rows.isfinite().all()


def test_tokens_and_a_temperature_per_sample() -> None:
    student, teacher = trained(head(50, 8, rows=6)), head(50, 12, rows=6, seed=1)
    tokens = [x._replace(hidden=x.hidden.reshape(2, 3, -1)) for x in (student, teacher)]
    tau, weight = torch.tensor([1.0, 4.0]), WEIGHT[:6].reshape(2, 3)
    _, rows = linear_soft_target(*tokens, tau, row_weight=weight, workspace=SMALL)
    p, q = ((logits(x, 50).T / tau.repeat_interleave(3)).T for x in (teacher, student))
    wanted = divergence(p.log_softmax(1), q.log_softmax(1)).sum(1).where(weight.flatten() != 0, 0)
    assert rows.shape == (2, 3)
    torch.testing.assert_close(rows.flatten(), wanted, rtol=1e-4, atol=1e-6)


def test_what_needs_no_gradient_gets_none_and_takes_no_room() -> None:
    student, teacher = head(50, 8, bias=True), head(50, 12, seed=1)
    student.hidden.requires_grad_()
    total, _ = linear_soft_target(student, teacher, 2.0)
    total.backward()
    assert student.hidden.grad is not None
    _, _, _, *made = OPS.linear_soft_target(*arguments(wanted=[True, False, False]))
    assert [x.numel() for x in made] == [56, 0, 0]
    with torch.no_grad():
        assert not linear_soft_target(student, teacher, 2.0)[0].requires_grad


def test_a_retained_graph_can_be_used_twice() -> None:
    student, teacher = trained(head(50, 8)), head(50, 12, seed=1)
    total, _ = linear_soft_target(student, teacher, 2.0)
    first, second = (torch.autograd.grad(total, student.weight, retain_graph=True) for _ in "ab")
    assert torch.equal(first[0], second[0])


def arguments(wanted: list[bool], classes: int = 50) -> tuple[Any, ...]:
    student, teacher = head(classes, 8, bias=True), head(classes, 12, seed=1)
    one = torch.ones(1)
    own, its = (x._replace(hidden=x.hidden.detach()) for x in (student, teacher))
    return (*own[:3], *its[:3], one, one, WEIGHT, [*own[3:], *its[3:]], SMALL, wanted)


@pytest.mark.parametrize("interpreted", [True, False])
def test_the_operators_are_sound(interpreted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not interpreted:  # the plain computation, which the CPU has else
        monkeypatch.setenv("TRITON_INTERPRET", "0")
    given = arguments([True, True, True], classes=20)
    leaves = [x.requires_grad_() for x in given[:3]]
    torch.library.opcheck(OPS.linear_soft_target.default, (*leaves, *given[3:]))
    log_p = torch.randn(7, 4).double().log_softmax(1)
    ids = torch.arange(3, dtype=torch.int32).expand(7, 3).contiguous()
    sparse = (*leaves, log_p, ids, torch.ones(1), True, WEIGHT, [1.0, 0.0], SMALL, [True] * 3)
    torch.library.opcheck(OPS.linear_sparse_soft_target.default, sparse)
    scaled = (torch.randn(4, 3), torch.tensor(0.5), torch.bfloat16)
    torch.library.opcheck(OPS.scaled.default, scaled)


@pytest.mark.parametrize("name", ["all", "more student classes"])
def test_the_plain_computation_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, its = SHAPES[name]
    results = []
    for interpreted in ("1", "0"):
        monkeypatch.setenv("TRITON_INTERPRET", interpreted)
        student, teacher = trained(head(width=8, **own)), head(width=12, seed=1, **its)
        total, rows = linear_soft_target(student, teacher, 2.0, 3.0, WEIGHT, SMALL)
        total.backward()
        results.append((total.detach(), rows, *grads(student)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_its_products_are_counted() -> None:
    importlib.import_module("kdgraph.kernels._linear_flops")  # as the pass does
    student, teacher = head(50, 8), head(40, 12)
    values, ids = torch.zeros(7, 3), torch.arange(3).expand(7, 3)
    unit = 2 * 7 * 40
    for wanted in (0, 1, 2):
        for leaf in student[:wanted]:
            leaf.requires_grad_()  # type: ignore[union-attr]
        with FlopCounterMode(display=False) as counter:
            linear_soft_target(student, teacher, 2.0)
        assert counter.get_total_flops() == unit * (8 * (1 + wanted) + 12)
        with FlopCounterMode(display=False) as counter:
            linear_sparse_soft_target(student, values, ids, 2.0, "zero")
        assert counter.get_total_flops() == 2 * 7 * 50 * 8 * (1 + wanted)


class Step(torch.nn.Module):
    """A student's head that is trained against hidden states and a head of a teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.its = torch.nn.Linear(8, 50, bias=False), torch.nn.Linear(12, 50)

    def forward(self, hidden: Tensor, teacher: Tensor) -> Tensor:
        own = Head(hidden * 2, self.own.weight, self.own.bias, 1.0, 0.0)
        its = Head(teacher, self.its.weight, self.its.bias, 1.0, 30.0)
        return linear_soft_target(own, its, 2.0, workspace=SMALL)[0]


def test_compiles_to_one_graph() -> None:
    step, given = Step(), (head(50, 8).hidden, head(50, 12).hidden)
    results = []
    for run in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        step.zero_grad()
        value = run(*given)
        value.backward()
        results.append((value.detach(), step.own.weight.grad))
    torch.testing.assert_close(*results)


def test_exports_as_one_node() -> None:
    given = (head(50, 8).hidden, head(50, 12).hidden)
    program = torch.export.export(Step().requires_grad_(False), given)
    nodes = [n for n in program.graph.nodes if n.target is OPS.linear_soft_target.default]
    assert len(nodes) == 1
