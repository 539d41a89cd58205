"""How features [B, M, K] lie in memory, for programs that read them as they lie.

With K contiguous or with M contiguous (*across*), so that neither NCHW nor channels_last is copied:
a loss over channels reads the one by rows and the other by columns. Where a program reads both
sides at once and they do not lie alike, one of them is copied.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Side(NamedTuple):
    """Features [B, M, K], with their strides other than 1."""

    x: Tensor
    across: bool
    batch: int
    step: int


def laid(x: Tensor, across: bool | None = None) -> Side:
    """How x lies; a copy where that is neither way, or not the way asked for.

    Or where a sample has numbers further apart than an integer of 32 bits counts, in which the
    programs do; they count samples in 64.

    Raises:
        ValueError: if a sample has so many numbers that not even a copy is short enough.
    """
    own = lies_across(x)
    if across is None:
        across = own
    if own != across or not (own or x.shape[2] == 1 or x.stride(2) == 1) or _reach(x) >= 2**31:
        x = x.mT.contiguous().mT if across else x.contiguous()
    if _reach(x) >= 2**31:
        message = f"samples of {x.shape[1]} x {x.shape[2]} numbers: the kernel counts to 2**31"
        raise ValueError(message)
    return Side(x, across, x.stride(0) if len(x) > 1 else 0, x.stride(2 if across else 1))


def _reach(x: Tensor) -> int:
    """How far the last number of a sample is from its first."""
    return sum((n - 1) * step for n, step in zip(x.shape[1:], x.stride()[1:], strict=True))


def lies_across(x: Tensor) -> bool:
    """Whether M is contiguous, and K is not."""
    _, M, K = x.shape
    return K > 1 and x.stride(2) != 1 and (M == 1 or x.stride(1) == 1)


def made_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """New features that lie as x does, one after the other."""
    B, M, K = x.shape
    if lies_across(x):
        return x.new_empty(B, K, M, dtype=dtype).mT
    return x.new_empty(B, M, K, dtype=dtype)


def alignment(*sides: Side) -> int:
    """What divides all strides and contiguous sizes of sides that lie alike: 8, 4, or 1."""
    sizes = [n for s in sides for n in (s.x.shape[1 if s.across else 2], s.batch, s.step)]
    return next(a for a in (8, 4, 1) if all(n % a == 0 for n in sizes))


def sizes(side: Side, align: int) -> tuple[int, ...]:
    """M and K, the contiguous one divided: a program multiplies it by what it is aligned to."""
    M, K = side.x.shape[1:]
    return (M // align, K) if side.across else (M, K // align)
