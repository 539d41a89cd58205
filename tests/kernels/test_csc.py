"""The kernel of csc and spatial_correlation in Triton's interpreter, beside float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gram_checks import assert_close, found, multiply_in_tf32, pair

from kdgraph.kernels import _gram_ops
from kdgraph.kernels.base import KERNELS
from kdgraph.losses.base import RowLoss
from kdgraph.losses.csc import CSC
from kdgraph.losses.spatial_correlation import SpatialCorrelation

KERNEL = KERNELS.get("csc")
SIDES: Any = {"student": "link.student", "teacher": "link.teacher"}
SPATIAL = SpatialCorrelation(**SIDES)
LOSSES: list[RowLoss] = [
    SPATIAL,
    CSC(**SIDES),
    CSC(**SIDES, spatial=2.0, channel=0.0),
    CSC(**SIDES, variant="joint", patches=2),
    CSC(**SIDES, pool_to=(2, 3)),
]
# more channels than pixels, and more pixels than channels: the one side and the other
SHAPES = [(2, 27, 2, 4), (2, 5, 4, 8)]


@pytest.mark.parametrize("gap", [1.0, 1e-1, 1e-3, 1e-4])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_close_student_keeps_its_digits(shape: tuple[int, ...], gap: float) -> None:
    assert_close(KERNEL, SPATIAL, *pair(shape, gap))
    assert_close(KERNEL, CSC(**SIDES, spatial=0.0), *pair(shape, gap))


@pytest.mark.parametrize("gap", [1.0, 1e-3])
@pytest.mark.parametrize("shape", SHAPES)
def test_three_products_in_tf32_are_enough(
    shape: tuple[int, ...], gap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    multiply_in_tf32(monkeypatch, 3)
    assert_close(KERNEL, SPATIAL, *pair(shape, gap))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(2, 5, 4, 8), (1, 67, 2, 4)])
def test_every_variant(loss: RowLoss, shape: tuple[int, ...]) -> None:
    assert_close(KERNEL, loss, *pair(shape))


@pytest.mark.parametrize("shape", [(2, 2, 7, 7), (1, 66, 7, 10), (3, 9, 5), (1, 3, 14, 14)])
def test_odd_sizes(shape: tuple[int, ...]) -> None:
    student, teacher = pair(shape, 1.0)
    assert_close(KERNEL, SPATIAL, student, teacher)


def test_one_channel_has_signs_alone() -> None:
    student, teacher = torch.randn(2, 2, 1, 3, 4)
    s, t = student.sign().flatten(1), teacher.sign().flatten(1)
    gap = s[:, :, None] * s[:, None] - t[:, :, None] * t[:, None]
    rows = KERNEL.run(SPATIAL, student=student, teacher=teacher)
    torch.testing.assert_close(rows, gap.square().mean((1, 2)))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_student_unlike_its_teacher(shape: tuple[int, ...]) -> None:
    student, teacher = torch.randn(2, *shape)
    assert_close(KERNEL, SPATIAL, 1e-3 * student, teacher)
    assert_close(KERNEL, SPATIAL, 1e3 * student, teacher)


def test_channels_may_differ_where_there_are_few_pixels() -> None:
    assert_close(KERNEL, SPATIAL, torch.randn(2, 9, 2, 4), torch.randn(2, 12, 2, 4))
    few, many = (2, 9, 2, 4), (2, 9, 4, 8)
    assert KERNEL.declines(SPATIAL, student=few, teacher=(2, 12, 2, 4)) is None
    assert KERNEL.declines(SPATIAL, student=many, teacher=many) is None
    why = KERNEL.declines(SPATIAL, student=many, teacher=(2, 12, 4, 8))
    assert "9 and 12 channels differ" in (why or "")
    assert "[32, 32]" in (why or "")


@pytest.mark.parametrize("shape", SHAPES)
def test_any_strides(shape: tuple[int, ...]) -> None:
    student, teacher = pair(shape)
    plain = found(KERNEL, CSC(**SIDES), student, teacher)
    B, C, H, W = shape
    wide = torch.zeros(B, C + 3, H + 1, 2 * W + 1)
    cut = wide[:, 1 : C + 1, :H, : 2 * W : 2].copy_(student)
    last = student.to(memory_format=torch.channels_last)
    both = teacher.to(memory_format=torch.channels_last)
    for s, t in ((last, both), (last, teacher), (cut, teacher)):
        rows, *grads = found(KERNEL, CSC(**SIDES), s, t)
        torch.testing.assert_close(rows, plain[0], rtol=2e-6, atol=0)
        for grad, wanted in zip(grads, plain[1:], strict=True):
            torch.testing.assert_close(grad, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())
        assert grads[0].stride() == s.stride() or s is cut


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("student_type", "teacher_type", "tolerance"),
    [
        (torch.float16, torch.float16, 1e-3),
        # directions of 8 bits, truncated by the interpreter
        (torch.bfloat16, torch.bfloat16, 3e-2),
        (torch.bfloat16, torch.float32, 1e-2),
    ],
)
def test_half_precision(
    shape: tuple[int, ...], student_type: Any, teacher_type: Any, tolerance: float
) -> None:
    student, teacher = pair(shape, 0.5)
    sides = student.to(student_type), teacher.to(teacher_type)
    assert_close(KERNEL, SPATIAL, *sides, tolerance, tolerance)


@pytest.mark.parametrize("gap", [1.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 27, 4, 8), (2, 9, 8, 8)])
def test_one_product_in_tf32_is_enough_for_float16(
    shape: tuple[int, ...], gap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operands that are cut, not rounded, leave errors of 1.4e-3, of gradients and of values."""
    student, teacher = pair(shape, gap)
    multiply_in_tf32(monkeypatch, 1)
    assert_close(KERNEL, SPATIAL, student.half(), teacher.half(), 2e-4, 1e-3, 1024)


def test_few_programs_split_their_sums() -> None:
    student, teacher = pair((1, 3, 10, 20))
    assert_close(KERNEL, SPATIAL, student, teacher)
    first, again = (found(KERNEL, SPATIAL, student, teacher) for _ in range(2))
    assert all(map(torch.equal, first, again))


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_without_length_have_no_gradient(shape: tuple[int, ...]) -> None:
    student, teacher = pair(shape)
    student[:, :, 0, 1], teacher[:, :, 1, 0] = 0, 0
    student[:, :, 1, 3] = teacher[:, :, 1, 3] = 0
    assert_close(KERNEL, SPATIAL, student, teacher)
    _, grad, slope = found(KERNEL, SPATIAL, student, teacher)
    assert not grad[:, :, [0, 1], [1, 3]].any()
    assert not slope[:, :, [1, 1], [0, 3]].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_nan_stays_in_its_sample(shape: tuple[int, ...]) -> None:
    student, teacher = pair(shape)
    clean = found(KERNEL, CSC(**SIDES), student, teacher)
    student[1, 2, 0, 1] = float("nan")
    student.requires_grad_()
    rows = KERNEL.run(CSC(**SIDES), student=student, teacher=teacher)
    assert rows.isnan().tolist() == [False, True]
    (grad,) = torch.autograd.grad(rows.sum(), student, retain_graph=True)
    assert grad[1].isnan().any()
    (grad,) = torch.autograd.grad(rows, student, torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(grad[0], clean[1][0])
    assert not grad[1].any()


def test_no_samples() -> None:
    rows, *grads = found(KERNEL, CSC(**SIDES), torch.zeros(0, 3, 2, 4), torch.zeros(0, 3, 2, 4))
    assert rows.shape == (0,)
    assert [g.shape for g in grads] == [(0, 3, 2, 4)] * 2


@pytest.mark.parametrize("on_cpu", ["interpreted", "reference"])
def test_operators(on_cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gram_ops, "interpreted", lambda: on_cpu == "interpreted")
    student, teacher = (x.flatten(2).mT.requires_grad_() for x in pair((2, 3, 2, 4)))
    torch.library.opcheck(_gram_ops.gap_across, (student, teacher))
    with torch.no_grad():
        value, *kept = _gram_ops.gap_across(student, teacher)
        args = (student, teacher, *kept, torch.ones_like(value), True)
        torch.library.opcheck(_gram_ops.across_backward, args)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_on_a_cpu(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gram_ops, "interpreted", lambda: False)
    assert_close(KERNEL, CSC(**SIDES), *pair(shape, 1.0))


class Step(torch.nn.Module):
    loss = CSC(**SIDES)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return KERNEL.run(self.loss, student=student, teacher=teacher).mean()


def test_compiled() -> None:
    student, teacher = pair((2, 5, 2, 4))
    student.requires_grad_()
    wanted = Step()(student, teacher)
    (slope,) = torch.autograd.grad(wanted, student)
    value = torch.compile(Step(), fullgraph=True, backend="aot_eager")(student, teacher)
    (grad,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(grad, slope)


def test_exported_without_a_matrix_of_pixels() -> None:
    student, teacher = pair((2, 3, 6, 8))
    program = torch.export.export(Step(), (student, teacher))
    nodes = [n.target for n in program.graph.nodes if "kdgraph" in str(n.target)]
    assert nodes == [
        torch.ops.kdgraph.gram_gap_across.default,  # pixels, of 3 channels
        torch.ops.kdgraph.gram_gap.default,  # channels, of 48 pixels
    ]
    made = [v for n in program.graph.nodes for v in _tensors(n.meta.get("val"))]
    assert max(v.numel() for v in made) < 48 * 48
    torch.testing.assert_close(program.module()(student, teacher), Step()(student, teacher))


def _tensors(value: Any) -> list[torch.Tensor]:
    values = value if isinstance(value, list | tuple) else [value]
    return [v for v in values if isinstance(v, torch.Tensor)]
