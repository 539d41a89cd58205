"""Both sides of a loss whose teacher lists k classes: [..., k + 1]; last comes the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from kdgraph.losses.base import per_sample

NOTHING = -float("inf")


def teacher_side(values: Tensor, tau: Tensor | float, tail: str, classes: int) -> Tensor:
    """Logarithms of the teacher's tempered probabilities; -inf for a rest that has nothing.

    Args:
        values: log-probabilities at temperature 1, -inf where nothing is listed.
        tau: a number, or one per sample.
        tail: ``bucket`` leaves the rest what the values leave of 1; else it has nothing.
        classes: how many there are; where all are listed there is no rest.
    """
    rest = torch.full_like(values[..., :1], NOTHING)
    if tail == "bucket":
        left = (1 - values.exp().sum(-1, keepdim=True)).clamp_min(0).log()
        listed = (values != NOTHING).sum(-1, keepdim=True)
        rest = left.where(listed < classes, NOTHING)
    return _log_softmax(torch.cat([values, rest], -1) / per_sample(tau, values))


def student_side(
    student: Tensor, values: Tensor, ids: Tensor, tau: Tensor | float, tail: str
) -> Tensor:
    """Logarithms of the student's tempered probabilities of the listed classes and of the rest.

    With ``tail: zero`` each class is tempered, else the rest as a whole. With ``renormalise``
    there is no rest.
    """
    ids, listed = ids.long(), values != NOTHING
    tau = per_sample(tau, student)
    kept = student.gather(-1, ids).where(listed, NOTHING) / tau
    if tail == "renormalise":
        rest = torch.full_like(kept[..., :1], NOTHING)
    else:
        others = others_of(student, values, ids)
        rest = logsumexp(others / tau) if tail == "zero" else logsumexp(others) / tau
    return _log_softmax(torch.cat([kept, rest], -1))


def others_of(student: Tensor, values: Tensor, ids: Tensor) -> Tensor:
    """The logits of classes that are not listed, -inf at those that are."""
    # one class more, where ids that list nothing go
    wider = torch.cat([student, student[..., :1]], -1)
    at = ids.where(values != NOTHING, student.shape[-1])
    return wider.scatter(-1, at, NOTHING)[..., :-1]


def _log_softmax(x: Tensor) -> Tensor:
    """-inf, not nan, where all of a row is -inf."""
    some = (x != NOTHING).any(-1, keepdim=True)
    return x.where(some, 0).log_softmax(-1).where(some, NOTHING)


def logsumexp(x: Tensor) -> Tensor:
    """-inf, and no gradient, where all of a row is -inf."""
    some = (x != NOTHING).any(-1, keepdim=True)
    return x.where(some, 0).logsumexp(-1, keepdim=True).where(some, NOTHING)
