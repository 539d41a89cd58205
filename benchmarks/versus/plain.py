"""The losses of the kernels as one writes them down in PyTorch, for values to compare with.

They compute in float32, or in float64 where they are given float64. Gradients go to the student.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import kl_div, linear, log_softmax, normalize

from kdgraph.losses.relation import Relation
from kdgraph.losses.sparse_soft_target import SparseSoftTarget

_RELATION = Relation(student="link.student", teacher="link.teacher")
_SPARSE = SparseSoftTarget(student="student.x", values="batch.v", ids="batch.i")


def wide(x: Tensor) -> Tensor:
    """As float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def forward_kl(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    """The mean over rows of ``tau**2 KL(teacher || student)``, softmaxes over the last dimension.

    Rows are all dimensions but the last.
    """
    log_q, log_p = (log_softmax(wide(x) / tau, -1) for x in (student, teacher))
    return _kl(log_p, log_q) * tau**2


def reverse_kl(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    """The same the other way round."""
    log_q, log_p = (log_softmax(wide(x) / tau, -1) for x in (student, teacher))
    return _kl(log_q, log_p) * tau**2


def jensen_shannon(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    """``tau**2`` times the mean of both divergences from the mixture."""
    log_q, log_p = (log_softmax(wide(x) / tau, -1) for x in (student, teacher))
    mixture = torch.logaddexp(log_p, log_q) - math.log(2)
    return (_kl(log_p, mixture) + _kl(log_q, mixture)) * (tau**2 / 2)


def total_variation(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    """Half the sum of absolute gaps between probabilities."""
    q, p = ((wide(x) / tau).softmax(-1) for x in (student, teacher))
    return (p - q).abs().sum(-1).mean() / 2


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return kl_div(log_q, log_p, log_target=True, reduction="sum") / log_p.shape[:-1].numel()


def channel_wise(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    """Over the pixels of each channel, maps [B, C, H, W]."""
    return forward_kl(student.flatten(2), teacher.flatten(2), tau=tau)


def channel_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Products of channels, each row divided by its length: [B, C, H, W]."""
    s, t = (wide(x).flatten(2) for x in (student, teacher))
    gap = normalize(s @ s.mT, dim=2) - normalize(t @ t.mT, dim=2)
    return gap.square().sum((1, 2)).mean() / s.shape[1] ** 2


def spatial_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Cosines between pixels, an [H W, H W] matrix per sample and side."""
    s, t = (normalize(wide(x).flatten(2), dim=1) for x in (student, teacher))
    return (s.mT @ s - t.mT @ t).square().sum((1, 2)).mean() / s.shape[2] ** 2


def csc(student: Tensor, teacher: Tensor) -> Tensor:
    """Cosines between pixels, and between channels."""
    s, t = (normalize(wide(x).flatten(2), dim=2) for x in (student, teacher))
    gap = (s @ s.mT - t @ t.mT).square().sum((1, 2)).mean() / s.shape[1] ** 2
    return spatial_correlation(student, teacher) + gap


def relation(student: Tensor, teacher: Tensor) -> Tensor:
    """From differences [B, B, D] and angles [B, B, B], as in the authors' program."""
    return _RELATION.forward(student=wide(student), teacher=wide(teacher))


def sparse_soft_target(student: Tensor, values: Tensor, ids: Tensor, *, tau: float) -> Tensor:
    """A teacher of whom k classes per row are known, and what is left as one class more."""
    rows = _SPARSE.rows(student=wide(student), values=wide(values), ids=ids, tau=tau)
    return rows.mean()


def linear_forward_kl(
    hidden: Tensor, weight: Tensor, hidden_t: Tensor, weight_t: Tensor, *, tau: float
) -> Tensor:
    """Between two heads, through all of their logits."""
    return forward_kl(linear(hidden, weight), linear(hidden_t, weight_t), tau=tau)
