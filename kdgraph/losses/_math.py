"""What several losses compute. Tensor methods only, so that losses stay free of torch imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SHORT = 1e-12  # a vector of at most this length counts as zero: it has no direction


def unit(x: Tensor, dim: int, *, short: Tensor | float = SHORT) -> Tensor:
    """``x / ||x||`` along ``dim``; a vector no longer than ``short`` becomes 0, without gradient.

    Dividing by ``max(||x||, eps)`` would give such a vector a gradient of order ``1 / eps``.
    """
    square = x.square().sum(dim, keepdim=True)
    return x * square.where(square > short**2, float("inf")).rsqrt()


def length(x: Tensor, dim: int) -> Tensor:
    """``||x||`` along ``dim``, with gradient 0 where the length is 0."""
    square = x.square().sum(dim)
    long = square > SHORT**2
    return square.where(long, 1).sqrt().where(long, 0)


def pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Correlation along ``dim``; 0, without gradient, where either side is constant."""
    return (_standard(a, dim) * _standard(b, dim)).sum(dim)


def _standard(x: Tensor, dim: int) -> Tensor:
    from torch import finfo

    # The mean of equal numbers is off by some rounding; what is left then is no direction.
    rounding = 8 * finfo(x.dtype).eps * length(x.detach(), dim).unsqueeze(dim)
    return unit(x - x.mean(dim, keepdim=True), dim, short=rounding.clamp_min(SHORT))


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The terms of KL(p || q) in Bregman form, ``p (log p - log q) - p + q``, each >= 0.

    The extra ``q - p`` sums to zero; it makes the sum insensitive to rounding of the two
    normalisers, so that a high temperature or a nearly equal student keeps its digits.
    A class with p = 0 contributes ``q``, whatever q is; one with q = 0 < p makes the sum inf.
    No value is nan, and no gradient except in that last case: with respect to ``log_p``, because
    p would have to leave that class by an infinite step. So in KL(teacher || student) either side
    may mask classes, in KL(student || teacher) the teacher only those that the student masks too.
    """
    p = log_p.exp()
    gap = (log_p - log_q).where(p > 0, 0)
    return p * gap - p + log_q.exp()


def entropy(logits: Tensor, dim: int) -> Tensor:
    """``-sum_k q_k log q_k`` of a softmax along ``dim``; a class masked by -inf adds nothing."""
    log_q = logits.log_softmax(dim)
    return -(log_q.exp() * log_q.where(log_q > -float("inf"), 0)).sum(dim)


def towards_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """The terms of ``KL(p || share p + (1 - share) q)``, each >= 0; always finite.

    The mixture goes by way of the probabilities: the logarithm of a sum of exponentials has no
    gradient where both are 0. A class that neither side gives anything adds nothing.
    """
    mixture = share * log_p.exp() + (1 - share) * log_q.exp()
    possible = mixture > 0
    return divergence(log_p, mixture.where(possible, 1).log()).where(possible, 0)


def by_channel(x: Tensor) -> Tensor:
    """[B, C, N] from a map [B, C, ...] or from tokens [B, N, C]."""
    return x.mT if x.dim() == 3 else x.flatten(2)
