"""Distances and angles between samples from their inner products, without differences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torch.utils.checkpoint import checkpoint

from kdgraph.losses._work import Work

# Pairs closer than this share of their distance from the mean, squared, count as coinciding.
# Inner products in float64 are wrong by far less, differences of float32 by hardly more.
_COINCIDING = 1e-13
_BLOCK = 2**19  # angles held at once


class Pairs:
    """Inner products of the samples of a batch [B, ...] around their mean, in float64.

    ``|x_j - x_i|**2`` and ``<x_j - x_i, x_k - x_i>`` are sums of them that cancel for close
    samples: a relative distance of d leaves about ``1e-16 / d**2`` of error, 1e-8 at d = 1e-4.

    Attributes:
        products: [B, B].
        square: squared distances [B, B], 0 without gradient for samples that coincide.
        inverse: one over the distances [B, B], 0 for samples that coincide.
    """

    def __init__(self, x: Tensor) -> None:
        self.dtype = x.dtype
        wide = x.flatten(1).double()
        wide = wide - wide.mean(0)
        self.products = wide @ wide.T
        own = self.products.diagonal()
        sums = own.unsqueeze(0) + own.unsqueeze(1)
        square = sums - 2 * self.products
        apart = (square > _COINCIDING * sums) & (square > 1e-24)
        self.square = square.where(apart, 0)
        self.inverse = square.where(apart, float("inf")).rsqrt()

    def distances(self) -> Tensor:
        """[B, B], at least 1e-6."""
        return self.square.clamp_min(1e-12).sqrt()


def angle_gap(student: Pairs, teacher: Pairs) -> Tensor:
    """The mean over i, j, k of the smooth L1 gap of the cosines at i, between j and k.

    A large batch is taken in blocks of i, which are computed again in the backward pass, so that
    no tensor grows with B**3.
    """
    B = len(student.products)
    step = B if torch.compiler.is_compiling() else max(1, _BLOCK // B**2)
    sides = (student.products, student.inverse, teacher.products, teacher.inverse)
    if step >= B:
        return _block(*sides, student.dtype, 0, B) / B**3
    total = student.products.new_zeros((), dtype=student.dtype)
    for start in range(0, B, step):
        total = total + checkpoint(
            _block, *sides, student.dtype, start, start + step,
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
    return total / B**3


def _block(
    products_s: Tensor,
    inverse_s: Tensor,
    products_t: Tensor,
    inverse_t: Tensor,
    dtype: torch.dtype,
    start: int,
    stop: int,
) -> Tensor:
    s = _cosines(products_s, inverse_s, start, stop).to(dtype)
    return smooth_l1_loss(
        s, _cosines(products_t, inverse_t, start, stop).to(dtype), reduction="sum"
    )


def _cosines(products: Tensor, inverse: Tensor, start: int, stop: int) -> Tensor:
    """[i, j, k] for i from ``start`` to ``stop``."""
    own, inverse = products.diagonal()[start:stop, None], inverse[start:stop]
    half = own / 2 - products[start:stop]  # of <x_i, x_i> - <x_i, x_j> - <x_i, x_k>
    dots = products + half.unsqueeze(2) + half.unsqueeze(1)
    return dots * inverse.unsqueeze(2) * inverse.unsqueeze(1)


def plain_work(batch: int, student: int, teacher: int, *, angle: bool) -> Work:
    """From differences [B, B, D]; D is the number of features of each side."""
    pairs, triples = batch**2, batch**3 * angle
    return Work(
        triples * (6 * student + 2 * teacher),
        max(pairs * max(student, teacher), triples),
        pairs * (30 * student + 10 * teacher) + 15 * triples,
    )


def gram_work(batch: int, student: int, teacher: int, *, angle: bool) -> Work:
    """From inner products in float64, where operations and numbers count twice."""
    pairs, triples = batch**2, batch**3 * angle
    return Work(
        2 * pairs * (6 * student + 2 * teacher),
        2 * max(batch * max(student, teacher), pairs, min(triples, _BLOCK)),
        2 * (batch * (8 * student + 4 * teacher) + 50 * pairs + 45 * triples),
    )
