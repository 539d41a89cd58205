"""Soft targets between two heads: hidden states and weights in, never all of the logits.

The gradient is made together with the value, while the products of a chunk are at hand: to compute
them again in the backward pass would take half as many operations more. So the weight of each row
in the sum has to be known beforehand, and the backward pass only multiplies by one number. What is
kept between the two is the gradient itself, in float32: [N, D] and [V, D], and nothing of [N, V].
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdgraph.kernels._chunks import Head
from kdgraph.kernels._linear_ops import dense, sparse
from kdgraph.kernels.sparse_rows import tau_by_row, teacher_of

WORKSPACE = 2**30
"""Bytes for the products of a chunk: 1046 tokens of 128,256 classes on both sides."""


def linear_soft_target(
    student: Head,
    teacher: Head,
    tau: Tensor | float,
    tau_student: Tensor | float | None = None,
    row_weight: Tensor | None = None,
    workspace: int = WORKSPACE,
) -> tuple[Tensor, Tensor]:
    """``sum_i w_i KL(p_i || q_i)`` over tokens, p and q the softmaxes over two heads' logits.

    Products of half-precision states are kept in float32, a chunk of tokens at a time. Where one
    side has more classes, those that the other one lacks are masked on it: it has no probability
    there, and no gradient. A row of weight 0 has value 0 and gradient 0, even if it holds nan.
    It is not taken out before the products, since how many there are is known to the GPU alone.

    Args:
        student: its states are [N, D] or [B, L, D]; trained are states, weight and bias.
        teacher: its states have the same N, or B and L; D and V may differ.
        tau: the temperature, a number, a 0-dim tensor or one per sample.
        tau_student: another one on the student's side.
        row_weight: w, [N] or [B, L]: mask, mean and ``tau**2`` go in here. Ones if left out.
        workspace: bytes that the products of one chunk may take.

    Returns:
        The sum, which can be differentiated once, and the values of the rows in their shape,
        which cannot. Both are float32.
    """
    shape = student.hidden.shape[:-1]
    taus = [
        tau_by_row(t, student.hidden) for t in (tau if tau_student is None else tau_student, tau)
    ]
    weight = _by_row(row_weight, student.hidden)
    s, t = _flat(student), _flat(teacher)
    total, rows, *_ = dense(
        *s[:3], *(x if x is None else x.detach() for x in t[:3]), *taus, weight,
        [*s[3:], *t[3:]], workspace, _wanted(s),
    )  # fmt: skip
    return total, rows.reshape(shape)


def linear_sparse_soft_target(
    student: Head,
    values: Tensor,
    ids: Tensor,
    tau: Tensor | float,
    tail: str,
    row_weight: Tensor | None = None,
    workspace: int = WORKSPACE,
) -> tuple[Tensor, Tensor]:
    """As ``linear_soft_target``, with a teacher that lists k classes per row.

    Args:
        student: its states are [N, D] or [B, L, D]; trained are states, weight and bias.
        values: log-probabilities of the listed classes, [N, k] or [B, L, k]; -inf lists nothing.
        ids: their numbers, which differ within a row.
        tau: the temperature, a number, a 0-dim tensor or one per sample.
        tail: ``bucket`` or ``zero``, as in ``losses.sparse_soft_target``.
        row_weight: [N] or [B, L].
        workspace: bytes that the products of one chunk may take.
    """
    weight = _by_row(row_weight, student.hidden)
    if tail == "zero":  # a row that lists nothing is 0
        weight = weight.where((values != -float("inf")).any(-1).reshape(-1), 0)
    log_p, at = teacher_of(values, ids, tau, tail, student.classes)
    s = _flat(student)
    total, rows, *_ = sparse(
        *s[:3], log_p, at, tau_by_row(tau, student.hidden), tail == "bucket", weight,
        list(s[3:]), workspace, _wanted(s),
    )  # fmt: skip
    return total, rows.reshape(student.hidden.shape[:-1])


def _by_row(weight: Tensor | None, hidden: Tensor) -> Tensor:
    if weight is None:
        return hidden.new_ones(hidden.shape[:-1].numel(), dtype=torch.float32)
    return weight.detach().float().reshape(-1)


def _flat(head: Head) -> Head:
    """States as [N, D], and all of one type."""
    hidden = head.hidden.flatten(0, -2)
    return head._replace(hidden=hidden, weight=head.weight.to(hidden.dtype))


def _wanted(head: Head) -> list[bool]:
    """Of states, weight and bias, those that a gradient goes to."""
    on = torch.is_grad_enabled()
    return [on and x is not None and x.requires_grad for x in head[:3]]
