"""The kernel of channel_correlation in Triton's interpreter, beside the loss in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gram_checks import assert_close, found, multiply_in_tf32, pair

from kdgraph.kernels import _gram_ops
from kdgraph.kernels.base import KERNELS
from kdgraph.losses.channel_correlation import ChannelCorrelation

KERNEL = KERNELS.get("channel_correlation")
VARIANTS = ("paper", "code", "cosine")
# "code" is "paper" times the number of channels
variants = pytest.mark.parametrize("variant", ["paper", "cosine"])


def loss_of(variant: Any = "paper") -> ChannelCorrelation:
    return ChannelCorrelation(student="link.student", teacher="link.teacher", variant=variant)


@variants
@pytest.mark.parametrize("gap", [1.0, 1e-1, 1e-3, 1e-4])
def test_a_close_student_keeps_its_digits(variant: str, gap: float) -> None:
    assert_close(KERNEL, loss_of(variant), *pair((2, 5, 3, 7), gap))


@variants
@pytest.mark.parametrize("gap", [1.0, 1e-3])
def test_three_products_in_tf32_are_enough(
    variant: str, gap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    multiply_in_tf32(monkeypatch, 3)
    assert_close(KERNEL, loss_of(variant), *pair((1, 24, 7, 9), gap))


@variants
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 1, 7, 7), (1, 67, 7, 7), (3, 9, 5), (1, 8, 14, 14)]
)
def test_odd_sizes(variant: str, shape: tuple[int, ...]) -> None:
    student, teacher = pair(shape)
    if shape[1] == 1:  # one channel is related to itself alone
        rows, *grads = found(KERNEL, loss_of(variant), student, teacher)
        assert rows.abs().max() < 1e-12
        assert all(g.abs().max() < 1e-6 for g in grads)
        return
    assert_close(KERNEL, loss_of(variant), student, teacher)


@variants
def test_another_number_of_positions_or_a_student_unlike(variant: str) -> None:
    student, teacher = torch.randn(2, 5, 3, 7), torch.randn(2, 5, 2, 9)
    assert_close(KERNEL, loss_of(variant), student, teacher)
    assert_close(KERNEL, loss_of(variant), 1e-3 * student, teacher.reshape(2, 18, 5))
    assert_close(KERNEL, loss_of(variant), 1e3 * student, torch.randn(2, 5, 3, 7))


@variants
def test_any_strides(variant: str) -> None:
    student, teacher = pair((2, 16, 4, 6))
    plain = found(KERNEL, loss_of(variant), student, teacher)
    wide = torch.zeros(2, 20, 5, 13)
    cut = wide[:, 1:17, :4, :12:2].copy_(student)  # rows that do not follow one another
    last = student.to(memory_format=torch.channels_last)
    for s, t in (
        (last, teacher.to(memory_format=torch.channels_last)),
        (last, teacher),
        (cut, teacher),
    ):
        rows, *grads = found(KERNEL, loss_of(variant), s, t)
        torch.testing.assert_close(rows, plain[0], rtol=2e-6, atol=0)
        for grad, wanted in zip(grads, plain[1:], strict=True):
            torch.testing.assert_close(grad, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())
        assert grads[0].stride() == s.stride() or s is cut


def test_neither_layout_is_copied() -> None:
    from kdgraph.kernels._layout import alignment, laid
    from kdgraph.losses._math import by_channel

    maps = torch.randn(2, 8, 2, 4)
    last = maps.to(memory_format=torch.channels_last)
    for x, across in ((maps, False), (last, True)):
        for rows, turned in ((by_channel(x), across), (by_channel(x).mT, not across)):
            side = laid(rows)
            assert side.x.data_ptr() == x.data_ptr()
            assert (side.across, alignment(side)) == (turned, 8)
    assert alignment(laid(torch.zeros(2, 3, 196))) == 4
    assert alignment(laid(torch.zeros(2, 3, 49))) == 1


@variants
@pytest.mark.parametrize(
    ("student_type", "teacher_type", "tolerance"),
    [
        (torch.float16, torch.float16, 1e-3),
        (torch.bfloat16, torch.bfloat16, 2e-2),  # the interpreter truncates
        (torch.float16, torch.float32, 1e-3),
    ],
)
def test_half_precision(
    variant: str, student_type: Any, teacher_type: Any, tolerance: float
) -> None:
    student, teacher = pair((2, 5, 3, 7))
    # at most 7 x 3 positions: cosines are compared by channels, whose products are exact
    assert_close(
        KERNEL,
        loss_of(variant),
        student.to(student_type),
        teacher.to(teacher_type),
        1e-5,
        tolerance,
    )


def test_offsets_that_32_bits_do_not_count() -> None:
    from kdgraph.kernels._layout import laid

    def features(shape: tuple[int, ...], strides: tuple[int, ...]) -> torch.Tensor:
        return torch.empty_strided(shape, strides, device="meta")

    near = features((2, 2, 8), (2**40, 2**30, 1))
    assert laid(near).x is near
    side = laid(features((2, 3, 8), (2**40, 2**30, 1)))
    assert (side.across, side.batch, side.step) == (False, 24, 8)
    side = laid(features((2, 8, 3), (2**40, 1, 2**30)))
    assert (side.across, side.batch, side.step) == (True, 24, 8)
    with pytest.raises(ValueError, match="65536 x 32769"):
        laid(features((1, 2**16, 2**15 + 1), (2**32, 2**15 + 1, 1)))


def test_few_programs_split_their_sums() -> None:
    from kdgraph.kernels._gram import split

    assert split(1, 600, 32) == (4, 160)
    assert split(192, 3136, 64) == (1, 3136)
    student, teacher = pair((1, 3, 200))
    student, teacher = student.mT, teacher.mT  # tokens [1, 200, 3] of 3 channels
    assert_close(KERNEL, loss_of(), student, teacher)
    first, again = (found(KERNEL, loss_of(), student, teacher) for _ in range(2))
    assert all(map(torch.equal, first, again))


@variants
def test_dead_channels_have_no_gradient(variant: str) -> None:
    student, teacher = pair((2, 5, 3, 4))
    student[:, 1], teacher[:, 3] = 0, 0
    student[:, 4] = teacher[:, 4] = 0
    assert_close(KERNEL, loss_of(variant), student, teacher)
    _, grad, slope = found(KERNEL, loss_of(variant), student, teacher)
    assert not grad[:, 4].any()
    assert not slope[:, 4].any()
    if variant == "cosine":  # else the other channels still have a product with it
        assert not grad[:, 1].any()
        assert not slope[:, 3].any()


@variants
def test_nan_stays_in_its_sample(variant: str) -> None:
    student, teacher = pair((3, 5, 2, 3))
    clean = found(KERNEL, loss_of(variant), student, teacher)
    student[1, 2, 0, 1] = float("nan")
    rows, grad, _ = found(KERNEL, loss_of(variant), student, teacher)
    assert rows.isnan().tolist() == [False, True, False]
    assert grad[1].isnan().any()
    assert torch.equal(grad[[0, 2]], clean[1][[0, 2]])


@variants
def test_a_sample_without_weight_moves_nothing(variant: str) -> None:
    student, teacher = pair((2, 5, 2, 3))
    student[1] = float("nan")
    student.requires_grad_()
    rows = KERNEL.run(loss_of(variant), student=student, teacher=teacher)
    (grad,) = torch.autograd.grad(rows, student, torch.tensor([1.0, 0.0]))
    assert grad[0].any()
    assert not grad[1].any()


def test_no_samples() -> None:
    rows, *grads = found(KERNEL, loss_of(), torch.zeros(0, 3, 2, 2), torch.zeros(0, 3, 2, 2))
    assert rows.shape == (0,)
    assert [g.shape for g in grads] == [(0, 3, 2, 2)] * 2


@pytest.mark.parametrize(("on_cpu", "cosine"), [("interpreted", True), ("reference", False)])
def test_operators(on_cpu: str, cosine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gram_ops, "interpreted", lambda: on_cpu == "interpreted")
    student, teacher = (x.flatten(2).requires_grad_() for x in pair((2, 5, 2, 3)))
    torch.library.opcheck(_gram_ops.gap_within, (student, teacher, cosine))
    with torch.no_grad():
        value, *kept = _gram_ops.gap_within(student, teacher, cosine)
        args = (student, teacher, *kept, torch.ones_like(value), cosine, True)
        torch.library.opcheck(_gram_ops.within_backward, args)


def test_the_reference_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gram_ops, "interpreted", lambda: False)
    for variant in VARIANTS:
        assert_close(KERNEL, loss_of(variant), *pair((2, 5, 3, 7), 1.0))
        assert_close(KERNEL, loss_of(variant), torch.randn(2, 5, 3), torch.randn(2, 4, 3))


def test_one_node_compiled_and_exported() -> None:
    loss = loss_of()

    class Step(torch.nn.Module):
        def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
            return KERNEL.run(loss, student=student, teacher=teacher).mean()

    student, teacher = pair((2, 5, 2, 3))
    student.requires_grad_()
    wanted = Step()(student, teacher)
    (slope,) = torch.autograd.grad(wanted, student)
    value = torch.compile(Step(), fullgraph=True, backend="aot_eager")(student, teacher)
    (grad,) = torch.autograd.grad(value, student)
    assert torch.equal(value, wanted)
    assert torch.equal(grad, slope)
    program = torch.export.export(Step(), (student.detach(), teacher))
    nodes = [n.target for n in program.graph.nodes if "kdgraph" in str(n.target)]
    assert nodes == [torch.ops.kdgraph.gram_gap.default]
    assert torch.equal(program.module()(student.detach(), teacher), wanted)
