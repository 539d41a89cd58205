"""Pearson's correlation by rows and by columns with its gradient, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdgraph.losses._math import SHORT

_BLOCK = 1 << 20  # numbers of a tensor at a time, which bounds what is held beside it


class Correlation(NamedTuple):
    """Correlation along ``dim`` of q with p, both [N, K]; the value is that of ``pearson``.

    Attributes:
        dim: 1 for rows, 0 for columns.
        value: [N, 1] or [1, K]; 0, without gradient, where either side is constant.
        means: of q and p.
        slopes: the gradient with respect to q is the first times the centred p, less the second
            times the centred q.
    """

    dim: int
    value: Tensor
    means: tuple[Tensor, Tensor]
    slopes: tuple[Tensor, Tensor]


def correlations(q: Tensor, p: Tensor, dims: Sequence[int]) -> list[Correlation]:
    """Correlations along some dimensions."""
    found = []
    for dim in dims:
        mean_q, mean_p = q.mean(dim, keepdim=True), p.mean(dim, keepdim=True)
        square_q, square_p, product = (torch.zeros_like(mean_q) for _ in range(3))
        for rows in _blocks(q):
            of = rows if dim == 1 else slice(None)  # the part of the sums that the rows add to
            a, b = q[rows] - mean_q[of], p[rows] - mean_p[of]
            product[of] += (a * b).sum(dim, keepdim=True)
            square_q[of] += a.square_().sum(dim, keepdim=True)
            square_p[of] += b.square_().sum(dim, keepdim=True)
        told = _told(square_q, mean_q, q.shape[dim]) & _told(square_p, mean_p, q.shape[dim])
        inverse_q, inverse_p = (x.where(told, float("inf")).rsqrt() for x in (square_q, square_p))
        value = product * inverse_q * inverse_p
        slopes = inverse_q * inverse_p, value * inverse_q.square()
        found.append(Correlation(dim, value, (mean_q, mean_p), slopes))
    return found


def gradient(q: Tensor, p: Tensor, of: Sequence[tuple[Correlation, float]]) -> Tensor:
    """The gradient with respect to q, [N, K], of a weighted sum of correlations."""
    total = torch.zeros_like(q)
    for rows in _blocks(q):
        for found, weight in of:
            part = rows if found.dim == 1 else slice(None)
            mean_q, mean_p, by_p, by_q = (x[part] for x in (*found.means, *found.slopes))
            total[rows].addcmul_(p[rows] - mean_p, by_p, value=weight)
            total[rows].addcmul_(q[rows] - mean_q, by_q, value=-weight)
    return total


def _blocks(x: Tensor) -> Iterator[slice]:
    """The rows of [N, K], some at a time."""
    step = max(1, _BLOCK // x.shape[1])
    yield from (slice(start, start + step) for start in range(0, x.shape[0], step))


def _told(square: Tensor, mean: Tensor, number: int) -> Tensor:
    """Whether what is left beside the mean is more than rounding."""
    rounding = (square + mean.square() * number) * (8 * torch.finfo(square.dtype).eps) ** 2
    return square > rounding.clamp_min(SHORT**2)
