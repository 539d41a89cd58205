"""The operators behind ``softmax_rows``: Triton on a GPU or interpreted, else the losses' formulas.

``kdgraph::softmax_rows`` gives values [B, P], cross-entropies [B, P] (empty without labels) and
what the backward pass needs to know of each row; ``kdgraph::softmax_rows_backward`` the gradient
of the student's logits, from the logits and those few numbers: as many bytes as reading and
scaling a gradient made in advance, and nothing of the size of the logits is kept between the two.
The teacher's gradient, where one is asked for, is the student's with the sides exchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdgraph.kernels.base import interpreted
from kdgraph.losses._math import divergence, towards_mixture

STATS = 9  # numbers per row

# Each kind, and what it is with student and teacher exchanged; a share b of the mixture, given in
# the place of beta, becomes 1 - b.
KINDS = {
    "forward_kl": "reverse_kl",
    "reverse_kl": "forward_kl",
    "jensen_shannon": "jensen_shannon",
    "skew_kl": "skew_kl_reverse",
    "skew_kl_reverse": "skew_kl",
    "total_variation": "total_variation",
}


@torch.library.custom_op("kdgraph::softmax_rows", mutates_args=())
def softmax_rows(
    student: Tensor,
    teacher: Tensor,
    tau: Tensor,
    tau_teacher: Tensor | None,
    label: Tensor | None,
    keep: Tensor | None,
    kind: str,
    share: float,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Divergences between rows of logits, and cross-entropies of the student's at temperature 1.

    Args:
        student: logits [B, P, K] in float32, float16 or bfloat16, of any strides.
        teacher: likewise.
        tau: temperature of the student, one element or one per row, float32.
        tau_teacher: the teacher's, where it is not the same.
        label: classes [B, P].
        keep: bool [B, P]; other rows have the value 0 and move nothing, whatever is in them.
        kind: a key of ``KINDS``.
        share: ``beta`` or ``alpha``, for the kinds that have one.
        ignore_index: the label of rows whose cross-entropy is 0.

    Returns:
        Values and cross-entropies in float32, and the numbers for ``softmax_rows_backward``.
    """
    if interpreted():
        given = (student, teacher, tau, tau_teacher, label, keep, kind, share, ignore_index)
        values, labelled, stats = _forward(*given)
        return values, labelled, stats
    log_p, log_q = _log_softmaxes(student, teacher, tau, tau_teacher)
    values = _terms(kind, log_p, log_q, share).sum(2)
    labelled = values.new_empty((0, 0))
    if label is not None:
        known = label.where(label != ignore_index, 0)
        own = student.float().log_softmax(2).gather(2, known.unsqueeze(2)).squeeze(2)
        labelled = -own.where(label != ignore_index, 0)
    if keep is not None:
        values = values.where(keep, 0)
        labelled = labelled if label is None else labelled.where(keep, 0)
    return values, labelled, values.new_zeros((STATS, *values.shape))


@softmax_rows.register_kernel("cuda")
def _forward(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    from kdgraph.kernels import _rows_launch

    return _rows_launch.forward(_rows_launch.problem(*given))


@softmax_rows.register_fake
def _(
    student: Tensor, teacher: Tensor, tau: Any, tau_teacher: Any, label: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    torch._check(student.shape == teacher.shape)
    B, P, _K = student.shape
    values = student.new_empty((B, P), dtype=torch.float32)
    labelled = values.new_empty((0, 0) if label is None else (B, P))
    return values, labelled, values.new_empty((STATS, B, P))


@torch.library.custom_op("kdgraph::softmax_rows_backward", mutates_args=())
def softmax_rows_backward(
    grad: Tensor,
    grad_labelled: Tensor,
    stats: Tensor,
    student: Tensor,
    teacher: Tensor,
    tau: Tensor,
    tau_teacher: Tensor | None,
    label: Tensor | None,
    keep: Tensor | None,
    kind: str,
    share: float,
    ignore_index: int,
) -> Tensor:
    """The gradient of the student's logits, in their type.

    Args:
        grad: of the values, [B, P].
        grad_labelled: of the cross-entropies.
        stats: what ``softmax_rows`` returned last.
        student: as it was given, like all that follow.
        teacher: likewise.
        tau: likewise.
        tau_teacher: likewise.
        label: likewise.
        keep: likewise.
        kind: likewise.
        share: likewise.
        ignore_index: likewise.
    """
    given = (student, teacher, tau, tau_teacher, label, keep, kind, share, ignore_index)
    if interpreted():
        out: Tensor = _backward(grad, grad_labelled, stats, *given)
        return out
    log_p, log_q = _log_softmaxes(student, teacher, tau, tau_teacher)
    pull = _pull(kind, log_p, log_q, share)
    rise = (pull - log_q.exp() * pull.sum(2, keepdim=True)) / _over_classes(tau, grad)
    rise = (rise * grad.unsqueeze(2)).where((grad != 0).unsqueeze(2), 0)
    if label is not None:
        own = grad_labelled.where(label != ignore_index, 0).unsqueeze(2)
        known = label.where(label != ignore_index, 0).unsqueeze(2)
        excess = student.float().softmax(2).scatter_add(2, known, -torch.ones_like(own))
        rise = rise + (excess * own).where(own != 0, 0)
    if keep is not None:
        rise = rise.where(keep.unsqueeze(2), 0)
    return torch.empty_like(student).copy_(rise)


@softmax_rows_backward.register_kernel("cuda")
def _backward(grad: Tensor, grad_labelled: Tensor, stats: Tensor, *given: Any) -> Tensor:
    from kdgraph.kernels import _rows_launch

    grads = (grad.contiguous(), grad_labelled.contiguous())
    return _rows_launch.backward(_rows_launch.problem(*given), stats, *grads)


@softmax_rows_backward.register_fake
def _(grad: Tensor, grad_labelled: Tensor, stats: Tensor, student: Tensor, *given: Any) -> Tensor:
    return torch.empty_like(student)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6], output[2])
    ctx.constants = inputs[6:]
    ctx.mark_non_differentiable(output[2])


def _grads(ctx: Any, grad: Tensor, grad_labelled: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    student, teacher, tau, tau_teacher, label, keep, stats = ctx.saved_tensors
    kind, share, ignore_index = ctx.constants
    of_student = of_teacher = None
    if ctx.needs_input_grad[0]:
        given = (student, teacher, tau, tau_teacher, label, keep, *ctx.constants)
        of_student = softmax_rows_backward(grad, grad_labelled, stats, *given)
    if ctx.needs_input_grad[1]:
        share = 1 - share if kind == "jensen_shannon" else share
        taus = (tau, None) if tau_teacher is None else (tau_teacher, tau)
        given = (teacher, student, *taus, None, keep, KINDS[kind], share, ignore_index)
        _, nothing, stats = softmax_rows(*given)
        of_teacher = softmax_rows_backward(grad, nothing, stats, *given)
    return of_student, of_teacher, *[None] * 7


softmax_rows.register_autograd(_grads, setup_context=_setup)


# ------------------------------------------------------------------------- the losses' formulas


def _over_classes(tau: Tensor, rows: Tensor) -> Tensor:
    """A temperature against [B, P, K]."""
    return tau if tau.numel() == 1 else tau.reshape(*rows.shape[:2], 1)


def _log_softmaxes(
    student: Tensor, teacher: Tensor, tau: Tensor, tau_teacher: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The teacher's log p and the student's log q."""
    other = tau if tau_teacher is None else tau_teacher
    return (
        (teacher.float() / _over_classes(other, teacher)).log_softmax(2),
        (student.float() / _over_classes(tau, student)).log_softmax(2),
    )


def _terms(kind: str, log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """What the divergence sums over classes."""
    if kind == "forward_kl":
        return divergence(log_p, log_q)
    if kind == "reverse_kl":
        return divergence(log_q, log_p)
    if kind == "skew_kl":
        return towards_mixture(log_p, log_q, share)
    if kind == "skew_kl_reverse":
        return towards_mixture(log_q, log_p, share)
    if kind == "total_variation":
        return (log_p.exp() - log_q.exp()).abs() / 2
    to_q = (1 - share) * towards_mixture(log_q, log_p, 1 - share)
    return share * towards_mixture(log_p, log_q, share) + to_q


def _pull(kind: str, log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """``q phi``, as ``_divergence`` has it; 0 where the student masks a class."""
    p, q = log_p.exp(), log_q.exp()
    if kind == "forward_kl":
        return q - p
    if kind == "total_variation":
        return q * (q - p).sign() / 2
    if kind == "reverse_kl":
        return (q * (log_q - log_p)).where(q > 0, 0)
    of_p = 1 - share if kind == "skew_kl_reverse" else share
    mixture = of_p * p + (1 - of_p) * q
    to_p = (1 - of_p) * q * (1 - p / mixture)
    to_q = q * (log_q - mixture.log()) - of_p * q * (1 - p / mixture)
    weights = {"skew_kl": (1.0, 0.0), "skew_kl_reverse": (0.0, 1.0)}
    weight_p, weight_q = weights.get(kind, (share, 1 - share))
    return (weight_p * to_p + weight_q * to_q).where(q > 0, 0)
