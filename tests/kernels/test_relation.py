"""Relation through its Triton programs: against float64, in odd sizes, and as an operator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdgraph.kernels._relation import SQUARES
from kdgraph.kernels.base import KERNELS
from kdgraph.kernels.relation import relation
from kdgraph.losses.relation import Relation

HALVES = (torch.float16, torch.bfloat16)


def loss(distance: float = 1.0, angle: float = 2.0) -> Relation:
    return Relation(student="link.student", teacher="link.teacher", distance=distance, angle=angle)


def run(entry: Relation, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The kernel's value and gradient."""
    leaf = student.detach().requires_grad_()
    value = KERNELS.get("relation").run(entry, student=leaf, teacher=teacher)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def exact(entry: Relation, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The same by the loss, in float64."""
    leaf = student.detach().double().requires_grad_()
    value = entry.forward(student=leaf, teacher=teacher.double())
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def check(entry: Relation, student: Tensor, teacher: Tensor, bound: float = 1e-5) -> None:
    value, grad = run(entry, student, teacher)
    true, slope = exact(entry, student, teacher)
    assert value.dtype == torch.float32
    assert (grad.dtype, grad.shape) == (student.dtype, student.shape)
    torch.testing.assert_close(value.double(), true, rtol=1e-5, atol=0)
    gap = grad.double() - slope
    assert gap.norm() <= bound * slope.norm()
    assert gap.abs().max() <= bound * slope.abs().max()


@pytest.mark.parametrize(("distance", "angle"), [(1.0, 2.0), (25.0, 0.0), (0.0, 50.0)])
@pytest.mark.parametrize("shapes", [((2, 1), (2, 3)), ((5, 3), (5, 8)), ((17, 40), (17, 127))])
def test_value_and_gradient(
    shapes: tuple[tuple[int, int], ...], distance: float, angle: float
) -> None:
    student, teacher = (torch.randn(s) for s in shapes)
    check(loss(distance, angle), student, teacher, bound=2e-5 if shapes[0] == (2, 1) else 1e-5)


def test_the_teacher_may_have_a_gradient_too() -> None:
    student, teacher = torch.randn(6, 5), torch.randn(6, 8)
    leaf = teacher.clone().requires_grad_()
    value = KERNELS.get("relation").run(loss(), student=student, teacher=leaf)
    (grad,) = torch.autograd.grad(value, leaf)
    both = [x.clone().requires_grad_() for x in (student, teacher)]
    KERNELS.get("relation").run(loss(), student=both[0], teacher=both[1]).backward()
    _, slope = exact(loss(), teacher, student)  # the loss is symmetric
    torch.testing.assert_close(grad.double(), slope, rtol=1e-5, atol=1e-8)
    assert both[1].grad is not None
    assert both[1].grad.equal(grad)
    torch.testing.assert_close(both[0].grad, run(loss(), student, teacher)[1])


@pytest.mark.parametrize("gap", [1e-1, 1e-3])
def test_a_student_close_to_its_teacher_keeps_its_digits(gap: float) -> None:
    teacher = 3 * torch.randn(9, 16) + 5
    check(loss(), teacher + gap * torch.randn(9, 16), teacher)


def test_samples_close_to_each_other_keep_their_digits() -> None:
    student = torch.randn(8, 6)
    student[3] = student[2] + 1e-4 * torch.randn(6)
    check(loss(), student, torch.randn(8, 6))


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_read_as_it_is(dtype: torch.dtype) -> None:
    # the interpreter cuts what it stores as bfloat16, where a GPU rounds
    check(loss(), torch.randn(6, 16).to(dtype), torch.randn(6, 24), bound=8e-3)
    check(loss(), torch.randn(6, 16), torch.randn(6, 24).to(dtype))


def test_samples_that_coincide_have_no_direction_and_no_gradient() -> None:
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    student[4] = student[1]
    teacher[5] = teacher[0]
    check(loss(), student, teacher)
    value, grad = run(loss(), torch.ones(4, 3), torch.randn(4, 3))
    assert value > 0
    assert not grad.any()


def test_features_of_any_form_and_memory_format() -> None:
    maps = torch.randn(4, 6, 3, 3)
    tokens = torch.randn(4, 5, 8)[:, 1:]
    plain = run(loss(), maps, tokens)
    other = run(loss(), maps.to(memory_format=torch.channels_last), tokens.contiguous())
    assert other[1].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(other, plain)
    check(loss(), torch.randn(7, 4).T, torch.randn(4, 3).expand(4, 3))
    check(loss(), torch.randn(5, 33)[:, 1:], torch.randn(8, 16)[::2].repeat(2, 1)[:5])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(bad: float) -> None:
    for side in (0, 1):
        inputs = [torch.randn(5, 4), torch.randn(5, 4)]
        inputs[side][2, 1] = bad
        value, grad = run(loss(), *inputs)
        assert value.isnan()
        assert grad.isnan().any()


@pytest.mark.parametrize("batch", [0, 1])
def test_fewer_samples_than_a_pair(batch: int) -> None:
    student, teacher = torch.randn(batch, 3), torch.randn(batch, 4)
    value, grad = run(loss(), student, teacher)
    torch.testing.assert_close(
        value, loss().forward(student=student, teacher=teacher), equal_nan=True
    )
    assert not grad.any()


def test_twice_the_same_bits_and_a_graph_used_twice() -> None:
    student, teacher = torch.randn(9, 7, requires_grad=True), torch.randn(9, 7)
    value = relation(student, teacher, 1.0, 2.0)[0]
    (one,) = torch.autograd.grad(value, student, retain_graph=True)
    (two,) = torch.autograd.grad(3 * value, student)
    torch.testing.assert_close(two, 3 * one, rtol=1e-6, atol=0)
    again = relation(student, teacher, 1.0, 2.0)[0]
    assert again.equal(value)
    assert torch.autograd.grad(again, student)[0].equal(one)


def test_many_samples_go_through_larger_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdgraph.kernels._relation.FEW", 8)
    check(loss(), torch.randn(10, 4), torch.randn(10, 4))


def test_features_split_over_programs_are_summed() -> None:
    wide = 9 * SQUARES.block + 3
    check(loss(1.0, 0.0), torch.randn(3, wide), torch.randn(3, 5))


def test_no_tensor_grows_with_three_sizes() -> None:
    student, teacher = torch.randn(6, 300, requires_grad=True), torch.randn(6, 300)
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        relation(student, teacher, 1.0, 2.0)
    assert sum(x.numel() for x in kept) == 6 * 300 + 4 * 6 * 6 + 4


def test_without_the_interpreter_a_cpu_runs_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = torch.randn(5, 4), torch.randn(5, 3)
    ours = run(loss(), student, teacher)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    torch.testing.assert_close(run(loss(), student, teacher), ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_opcheck(dtype: torch.dtype) -> None:
    student = torch.randn(3, 4, dtype=dtype, requires_grad=True)
    torch.library.opcheck(relation, (student, torch.randn(3, 5), 1.0, 2.0))


def test_compiled_and_exported_it_is_one_node() -> None:
    class Module(torch.nn.Module):
        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            return relation(student.flatten(1), teacher.flatten(1), 1.0, 2.0)[0]

    inputs = torch.randn(3, 2, 2, requires_grad=True), torch.randn(3, 5)
    true = Module()(*inputs)
    (grad,) = torch.autograd.grad(true, inputs[0])
    value = torch.compile(Module(), fullgraph=True, backend="aot_eager")(*inputs)
    torch.testing.assert_close(value, true)
    torch.testing.assert_close(torch.autograd.grad(value, inputs[0])[0], grad)
    program = torch.export.export(Module(), inputs)
    nodes = [n for n in program.graph.nodes if "kdgraph" in str(n.target)]
    assert [str(n.target) for n in nodes] == ["kdgraph.relation.default"]
    torch.testing.assert_close(program.module()(*inputs), true)
