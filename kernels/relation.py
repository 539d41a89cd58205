"""Relation on a GPU: no difference, no distance per feature and no angle is ever stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdgraph.kernels.base import Kernel, interpreted, on_device, register_kernel
from kdgraph.losses.base import Loss
from kdgraph.losses.relation import Relation


@register_kernel("relation")
class RelationKernel(Kernel):
    """Distances and angles between samples (RKD): Park et al. 2019 (arXiv 1904.05068).

    Both follow from the squared distances, which are summed in float64 from exact differences;
    cosines are taken in float64 in registers, three of a triangle at a time. What is kept for
    the backward pass is four numbers of float64 per pair of samples. The sides may differ in
    type, width and memory format. Samples coincide where the plain loss says so. No batch is too
    small: how large it will be is not always known beforehand, and a few launches take the place
    of many.
    """

    losses = ("relation",)

    def run(self, loss: Loss, **inputs: Any) -> Tensor:
        assert isinstance(loss, Relation)
        rows = _rows(inputs["student"]), _rows(inputs["teacher"])
        value: Tensor = relation(*rows, loss.distance, loss.angle)[0]
        return value


def _rows(x: Tensor) -> Tensor:
    """[B, D], a view where samples are dense: the order of features changes no distance."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.flatten(1)


@torch.library.custom_op("kdgraph::relation", mutates_args=())
def relation(
    student: Tensor, teacher: Tensor, distance: float, angle: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The relation loss of rows [B, D_s] and [B, D_t], whose widths and types may differ.

    The backward pass computes the angles again; what grows with B is [4, B, B].

    Args:
        student: float32, float16 or bfloat16; the gradient has its type.
        teacher: the same; the loss is symmetric.
        distance: the weight of the distances.
        angle: the weight of the angles; 0 leaves them out.

    Returns:
        The value (float32, 0-dim); squared and inverse distances of both sides (float64,
        [4, B, B]) and two numbers of each side ([2, 2]), which only the backward pass reads.
    """
    # without a pair nan stays, and of no sample there is no mean
    if len(student) < 2 or _plain(student):
        return _reference(student, teacher, distance, angle), *_kept(student)
    from kdgraph.kernels._relation import launch

    with on_device(student):
        return launch(student, teacher, distance, angle)


@relation.register_fake
def _(
    student: Tensor, teacher: Tensor, distance: float, angle: float
) -> tuple[Tensor, Tensor, Tensor]:
    torch._check(student.shape[0] == teacher.shape[0])
    return student.new_empty((), dtype=torch.float32), *_kept(student)


@torch.library.custom_op("kdgraph::relation_backward", mutates_args=())
def relation_backward(
    x: Tensor,
    other: Tensor | None,
    kept: Tensor,
    stats: Tensor,
    grad: Tensor,
    distance: float,
    angle: float,
    of_teacher: bool,
) -> Tensor:
    """The gradient of the rows x of one side, [B, D] in their type.

    ``other`` holds the rows of the other side, and is None where Triton programs run.
    """
    if len(x) < 2:
        return torch.zeros(x.shape, dtype=x.dtype, device=x.device)
    if other is not None:
        return _reference_backward(x, other, grad, distance, angle)
    from kdgraph.kernels._relation import launch_gradient

    with on_device(x):
        return launch_gradient(x, kept, stats, grad, distance, angle, of_teacher)


@relation_backward.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    student, teacher, *ctx.gains = inputs
    # programs read the one side whose gradient they make
    keep = [True, True] if _plain(student) else ctx.needs_input_grad[:2]
    rows = [x if kept else None for x, kept in zip((student, teacher), keep, strict=True)]
    ctx.plain = _plain(student)
    ctx.save_for_backward(*rows, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    *rows, kept, stats = ctx.saved_tensors
    made: list[Tensor | None] = [None, None]
    for i, needed in enumerate(ctx.needs_input_grad[:2]):
        if needed:
            other = rows[1 - i] if ctx.plain else None
            made[i] = relation_backward(rows[i], other, kept, stats, grad, *ctx.gains, i == 1)
    return *made, None, None


relation.register_autograd(_backward, setup_context=_setup)


def _plain(x: Tensor) -> bool:
    return not (x.is_cuda or interpreted())


def _kept(student: Tensor) -> tuple[Tensor, Tensor]:
    B = student.shape[0]
    return (
        student.new_zeros((4, B, B), dtype=torch.float64),
        student.new_zeros((2, 2), dtype=torch.float64),
    )


def _reference(student: Tensor, teacher: Tensor, distance: float, angle: float) -> Tensor:
    loss = Relation(student="link.student", teacher="link.teacher", distance=distance, angle=angle)
    value: Tensor = loss.forward(student=student.float(), teacher=teacher.float())
    return value


def _reference_backward(
    x: Tensor, other: Tensor, grad: Tensor, distance: float, angle: float
) -> Tensor:
    def value(rows: Tensor) -> Tensor:
        return _reference(rows, other, distance, angle)

    with torch.enable_grad():
        # torch.autograd records nothing inside an operator
        out: Tensor = torch.func.vjp(value, x)[1](grad)[0]
    return out.contiguous()
