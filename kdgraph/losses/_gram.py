"""The gap between two Gram matrices, ``||U_s U_s^T - U_t U_t^T||_F**2``, on either side.

``U`` is [M, K] per sample: the rows of ``X``, each divided by its length. The direct form makes
the [M, M] matrices. The delta-sigma form makes [K, K] products of ``D = U_s - U_t`` and
``S = U_s + U_t`` alone, since ``U_s U_s^T - U_t U_t^T = (D S^T + S D^T) / 2``, and keeps the
digits of a student that is close to its teacher, which the difference of the three [K, K] Grams
``G_ss - 2 G_st + G_tt`` does not. It needs equal K. Where the matrices agree although the
features do not (features turned as a whole, say), its sum cancels: the value is then off by some
1e-8 of ``M**2`` in float32, which shows in gaps that are not much larger.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kdgraph.losses._math import SHORT, unit
from kdgraph.losses._work import Work


def gram_gap(student: Tensor, teacher: Tensor, *, across: bool = False) -> Tensor:
    """The gap for each sample, [B], from rows [B, M, K]; ``across`` takes the [K, K] side."""
    if not across:
        s, t = unit(student, 2), unit(teacher, 2)
        return (s @ s.mT - t @ t.mT).square().sum((1, 2))
    if torch.compiler.is_compiling():  # plain operations fuse better than a function of our own
        return _delta_sigma(student, teacher)
    gap: Tensor = _DeltaSigma.apply(student, teacher)
    return gap


def gram_work(batch: int, rows: int, inner: int, *, across: bool = False) -> Work:
    """What ``gram_gap`` takes with a gradient for the student, for rows [batch, rows, inner].

    The numbers of passes over each tensor are counted from the operations.
    """
    x, wide, narrow = batch * rows * inner, batch * rows * rows, batch * inner * inner
    if across:
        return Work(14 * x * inner, max(x, narrow), 70 * x + 12 * narrow)
    return Work(8 * x * rows, max(x, wide), 25 * x + 18 * wide)


def cheaper_across(rows: int, inner: int) -> bool:
    """Whether the [inner, inner] side is estimated to take less time."""
    return gram_work(1, rows, inner, across=True).time < gram_work(1, rows, inner).time


def _delta_sigma(student: Tensor, teacher: Tensor) -> Tensor:
    u, _, _, _, d = _directions(student, teacher)
    s = 2 * u - d
    ds = d.mT @ s
    return ((d.mT @ d * (s.mT @ s)).sum((1, 2)) + (ds * ds.mT).sum((1, 2))) / 2


def _directions(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``U_s``, one over the lengths of the rows; the same of t; and ``U_s - U_t``.

    For rows of similar length the difference is put together from ``s - t``, which is exact for
    close numbers, so that it does not end in the rounding of ``U``.
    """
    i, j = _inverse_length(s), _inverse_length(t)
    u, v, gap = s * i, t * j, s - t
    similar = (i < 2 * j) & (j < 2 * i)
    # 1/|s| - 1/|t|, from |t|**2 - |s|**2 = -<s - t, s + t>
    square = (gap * (s + t)).sum(2, keepdim=True)
    shorter = square * i * j * (i * j / (i + j).where(similar, 1))
    return u, i, v, j, torch.where(similar, gap * i - t * shorter, u - v)


def _inverse_length(x: Tensor) -> Tensor:
    """[B, M, 1], 0 for a row that counts as zero, as in ``unit``."""
    square = x.square().sum(2, keepdim=True)
    return square.where(square > SHORT**2, float("inf")).rsqrt()


class _DeltaSigma(Function):
    """Keeps nothing but its inputs. The backward is plain operations, so it has a derivative."""

    @staticmethod
    def forward(student: Tensor, teacher: Tensor) -> Tensor:
        return _delta_sigma(student, teacher)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        u, i, v, j, d = _directions(*ctx.saved_tensors)
        factor = 4 * grad.reshape(-1, 1, 1)
        student = teacher = None
        if ctx.needs_input_grad[0]:
            student = _through_unit(_times(u, v, d) * factor, u, i)
        if ctx.needs_input_grad[1]:
            teacher = _through_unit(_times(v, u, -d) * factor, v, j)
        return student, teacher


def _times(u: Tensor, v: Tensor, d: Tensor) -> Tensor:
    """``(U U^T - V V^T) U`` from ``D = U - V``, in [K, K] products."""
    return torch.baddbmm(u @ (d.mT @ u), d, v.mT @ u)


def _through_unit(grad: Tensor, u: Tensor, inverse: Tensor) -> Tensor:
    """The gradient for a row from that of its direction."""
    return (grad - u * (u * grad).sum(2, keepdim=True)) * inverse
