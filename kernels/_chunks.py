"""A head over hidden states, a chunk of tokens at a time: the products, and what goes back.

The logits of all tokens never exist. What a chunk may take is a number of bytes, not a number of
tokens: each chunk reads and writes the whole float32 gradient of the weight once, so that few large
chunks cost less than many small ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WIDE = 16  # rows of products are a multiple of this many numbers apart
GAIN = 1024.0  # what gradients in float16 are multiplied by, so that small ones are not lost


class Head(NamedTuple):
    """``cap tanh(factor (hidden weight^T + bias) / cap)``; a cap of 0 is none.

    Attributes:
        hidden: [N, D], any strides.
        weight: [V, D].
        bias: [V], or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    factor: float
    cap: float

    @property
    def classes(self) -> int:
        return self.weight.shape[0]

    @property
    def plain(self) -> bool:
        """Whether the products are the logits."""
        return self.bias is None and self.factor == 1 and not self.cap

    @property
    def width(self) -> int:
        """Numbers from one row of products to the next."""
        return -(-self.classes // WIDE) * WIDE

    def first(self, classes: int) -> Head:
        """With the first classes alone."""
        bias = None if self.bias is None else self.bias[:classes]
        return self._replace(weight=self.weight[:classes], bias=bias)

    def buffer(self, parts: Sequence[slice]) -> Tensor:
        """For the products of the largest part, which is the first."""
        rows = parts[0].stop if parts else 0
        return self.hidden.new_empty((rows, self.width), dtype=torch.float32)

    def logits(self, products: Tensor) -> Tensor:
        """[n, V] from products of n rows."""
        x = products[:, : self.classes]
        x = x if self.bias is None else x + self.bias.float()
        x = x * self.factor
        return self.cap * (x / self.cap).tanh() if self.cap else x

    def slope(self, logits: Tensor) -> Tensor | float:
        """By how much logits rise with the products."""
        return self.factor * (1 - (logits / self.cap) ** 2) if self.cap else self.factor


def pieces(rows: int, bytes_per_row: int, workspace: int) -> list[slice]:
    """Equal parts of at most ``workspace`` bytes; multiples of 128 rows where that is possible."""
    most = max(workspace // bytes_per_row, 1)
    most = most // 128 * 128 or most
    each = max(-(-rows // -(-rows // most)), 1) if rows else 1
    each = min(-(-each // 128) * 128, most)
    return [slice(start, min(start + each, rows)) for start in range(0, rows, each)]


def products(hidden: Tensor, weight: Tensor, buffer: Tensor) -> Tensor:
    """``hidden weight^T`` in float32, into the first rows and columns of a buffer; those rows."""
    out = buffer[: len(hidden)]
    _mm(hidden, weight.t(), out[:, : len(weight)])
    return out


def _mm(a: Tensor, b: Tensor, out: Tensor) -> None:
    """``out = a b`` of equal types, out in float32."""
    if a.is_cuda and a.dtype != torch.float32:
        torch.mm(a, b, out_dtype=torch.float32, out=out)
    else:
        torch.mm(a.float(), b.float(), out=out)


def _addmm(a: Tensor, b: Tensor, out: Tensor) -> None:
    """``out += a b``."""
    if a.is_cuda and a.dtype != torch.float32:
        torch.addmm(out, a, b, out_dtype=torch.float32, out=out)
    else:
        out.addmm_(a.float(), b.float())


class Gradients:
    """What goes back to a head, collected chunk by chunk in float32, in a fixed order.

    Attributes:
        hidden: [N, D], empty where it is not wanted.
        weight: [V, D], likewise.
        bias: [V], likewise.
    """

    def __init__(self, head: Head, classes: int, wanted: Sequence[bool]) -> None:
        self.head, self.classes, self.wanted = head, classes, tuple(wanted)
        self.hidden, self.weight, self.bias = room(head.hidden, head.weight, wanted)
        self.first = True
        if len(head.hidden):
            self.weight[classes:] = 0
        else:
            self.weight.zero_()

    def add(self, part: slice, hidden: Tensor, rise: Tensor) -> None:
        """Takes in the gradient by the products of some rows, [n, classes]."""
        own, weight, bias = self.wanted
        if own:
            _mm(rise, self.head.weight[: self.classes], self.hidden[part])
        if weight:
            (_mm if self.first else _addmm)(rise.t(), hidden, self.weight[: self.classes])
        if bias:
            self.bias[: self.classes] += rise.sum(0, dtype=torch.float32)
        self.first = False


def room(hidden: Tensor, weight: Tensor, wanted: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """For the gradients by hidden states and weight, not filled in, and by the bias, 0."""
    shapes = (hidden.shape, weight.shape, weight.shape[:1])
    own, by_weight, by_bias = (
        hidden.new_empty(shape if want else (0,), dtype=torch.float32)
        for shape, want in zip(shapes, wanted, strict=True)
    )
    return own, by_weight, by_bias.zero_()
