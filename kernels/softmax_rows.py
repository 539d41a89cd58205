"""Divergences between softmaxes of raw logits: forward, reverse and skew KL, JSD, variation.

One operator reads student and teacher once and gives one value per row, whatever their type and
order in memory; see ``_divergence.py`` for why its digits hold at high temperatures and where both
nearly agree. With labels it gives the student's cross-entropy too, at the cost of one more
exponential per class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdgraph.kernels._row_ops import softmax_rows
from kdgraph.kernels.base import Kernel, register_kernel
from kdgraph.losses._math import by_channel
from kdgraph.losses.base import Loss, per_sample
from kdgraph.losses.channel_wise import ChannelWise
from kdgraph.losses.cross_entropy import CrossEntropy
from kdgraph.losses.jensen_shannon import JensenShannon
from kdgraph.losses.skew_kl import SkewKL
from kdgraph.losses.soft_target import SoftTarget
from kdgraph.losses.total_variation import TotalVariation
from kdgraph.spec.shapes import Shape, class_dim


@register_kernel("softmax_rows")
class SoftmaxRows(Kernel):
    """Losses between two rows of logits, [B, K], [B, L, K] or [B, K, H, W]."""

    losses = ("soft_target", "reverse_kl", "jensen_shannon", "skew_kl", "total_variation")

    def declines(self, loss: Loss, **shapes: Shape) -> str | None:
        """With a fused head, whose pass was switched off, one side may have more classes."""
        classes = {shapes[side][class_dim(shapes[side])] for side in self.sides if side in shapes}
        return "the sides differ in their number of classes" if len(classes) > 1 else None

    def run(self, loss: Loss, *, keep: Tensor | None = None, **inputs: Any) -> Tensor:
        """``keep``, bool in the shape of the rows: others are 0 and move nothing."""
        return _scaled(loss, _divergence(loss, keep=keep, **inputs)[0], **inputs)


@register_kernel("softmax_rows_channels")
class SoftmaxRowsOfChannels(Kernel):
    """Channel-wise distillation: the softmax of each channel goes over its pixels or tokens."""

    losses = ("channel_wise",)

    def run(self, loss: Loss, *, keep: Tensor | None = None, **inputs: Any) -> Tensor:
        """``keep``, bool [B, C]: others are 0 and move nothing."""
        return _scaled(loss, _divergence(loss, keep=keep, **inputs)[0], **inputs)


def joins(loss: Loss, other: Loss, **shapes: Shape) -> str | None:
    """Why ``joined`` cannot compute both losses, of the same student logits; None if it can.

    Args:
        loss: one of ``SoftmaxRows.losses``.
        other: a loss with labels, perhaps.
        shapes: of the tensors of ``other``.
    """
    if loss.use not in SoftmaxRows.losses:
        return f"{loss.use} is no divergence between rows of logits"
    if not isinstance(other, CrossEntropy):
        return f"{other.use} is no cross_entropy"
    if other.smoothing:
        return "its labels are smoothed"
    if other.class_weights is not None or other.balance is not None:
        return "its classes are weighted"
    if len(shapes["target"]) == len(shapes["student"]):
        return "its labels are probabilities"
    return None


def joined(
    loss: Loss, other: CrossEntropy, *, target: Tensor, keep: Tensor | None = None, **inputs: Any
) -> tuple[Tensor, Tensor]:
    """The rows of a divergence and of the cross-entropy of the same student logits, in one launch.

    Args:
        loss: one of ``SoftmaxRows.losses``.
        other: what ``joins`` has no objection to. Rows with its ``ignore_index`` are 0.
        target: classes, in the shape of the rows.
        keep: bool in the shape of the rows; others are 0 in both and move nothing.
        inputs: of ``loss``.
    """
    rows, labelled = _divergence(
        loss, target=target, ignore_index=other.ignore_index, keep=keep, **inputs
    )
    return _scaled(loss, rows, **inputs), labelled


def _divergence(
    loss: Loss,
    *,
    student: Tensor,
    teacher: Tensor,
    tau: Tensor | float,
    tau_student: Tensor | float | None = None,
    target: Tensor | None = None,
    ignore_index: int = -100,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Values and cross-entropies without factors, in the shape of the rows."""
    s, t, shape = _as_rows(loss, student), _as_rows(loss, teacher), _rows_of(loss, student)
    of_teacher = _temperature(tau, shape, student)
    of_student = of_teacher if tau_student is None else _temperature(tau_student, shape, student)
    values, labelled, _ = softmax_rows(
        s,
        t,
        of_student,
        None if tau_student is None else of_teacher,
        None if target is None else target.long().reshape(s.shape[:2]),
        None if keep is None else keep.expand(shape).reshape(s.shape[:2]),
        *_kind(loss),
        ignore_index,
    )
    return values.reshape(shape), labelled if target is None else labelled.reshape(shape)


def _kind(loss: Loss) -> tuple[str, float]:
    """Which divergence of ``kdgraph::softmax_rows`` it is, and the share of its mixture."""
    if isinstance(loss, SoftTarget | ChannelWise):
        return "forward_kl", 0.0
    if isinstance(loss, JensenShannon):
        return loss.use, loss.beta
    if isinstance(loss, SkewKL):
        return "skew_kl_reverse" if loss.variant == "reverse" else "skew_kl", loss.alpha
    return loss.use, 0.0


def _scaled(loss: Any, rows: Tensor, *, student: Tensor, tau: Tensor | float, **_: Any) -> Tensor:
    """The factors that the loss has before its rows are reduced."""
    if isinstance(loss, TotalVariation):
        return rows
    tau = per_sample(tau, rows)
    if isinstance(loss, SoftTarget):
        return rows * loss._factor(tau, student.shape[class_dim(tuple(student.shape))])
    return rows if not getattr(loss, "scale", True) else rows * tau**2


def _as_rows(loss: Loss, x: Tensor) -> Tensor:
    """[B, P, K], a view wherever strides allow it."""
    if isinstance(loss, ChannelWise):
        return by_channel(x)
    if x.dim() == 2:
        return x.unsqueeze(0)
    return x if x.dim() == 3 else x.flatten(2).mT


def _rows_of(loss: Loss, x: Tensor) -> Shape:
    at = class_dim(tuple(x.shape))
    if isinstance(loss, ChannelWise):
        return (x.shape[0], x.shape[at])
    return (*x.shape[:at], *x.shape[at + 1 :])


def _temperature(tau: Tensor | float, rows: Shape, like: Tensor) -> Tensor:
    """One element, or one per row."""
    if not isinstance(tau, Tensor):
        return torch.full((1,), tau, dtype=torch.float32, device=like.device)
    tau = tau.detach().to(like.device, torch.float32)
    if tau.dim() == 0:
        return tau.reshape(1)
    return (
        tau.reshape(*tau.shape, *[1] * (len(rows) - tau.dim()))
        .expand(rows)
        .reshape(-1)
        .contiguous()
    )
