"""Receptive fields: how wide a stretch of the input the values of a tensor depend on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

_DEVIATIONS = 4  # the width of a bell, from two standard deviations before it to two behind


@dataclass(frozen=True)
class Axis:
    """One dimension of the input, as a tensor behind some operators sees it.

    Attributes:
        size: of the input.
        length: of the tensor.
        step: between two neighbours of the tensor, in values of the input.
        width: from the first to the last value of the input that one value can depend on.
        variance: of where in it the value looks, each kernel having even weights.
    """

    size: int
    length: int
    step: float = 1.0
    width: float = 1.0
    variance: float = 0.0

    @property
    def share(self) -> float:
        """How much of the input a value looks at, from 0 to 1."""
        look = max(1.0, _DEVIATIONS * math.sqrt(self.variance))
        return min(1.0, min(self.width, look) / self.size)

    def through(self, kernel: float, stride: float, dilation: float, length: int) -> Axis:
        """Behind a sliding window; a stride below 1 is that of a transposed convolution.

        Of the values between which that one puts zeros, a window of ``kernel`` meets so many.
        """
        step = self.step
        if stride < 1:
            kernel, dilation = max(1.0, kernel * dilation * stride), 1.0
        return Axis(
            self.size,
            length,
            self.step * stride,
            self.width + (kernel - 1) * dilation * step,
            self.variance + (kernel**2 - 1) / 12 * (dilation * step) ** 2,
        )

    @property
    def whole(self) -> Axis:
        """Where every value depends on all."""
        return replace(self, width=math.inf, variance=math.inf)


@dataclass(frozen=True)
class Field:
    """The receptive field of a tensor, one ``Axis`` for each dimension of the input."""

    axes: tuple[Axis, ...]

    @property
    def share(self) -> float:
        """The mean over the axes."""
        return sum(axis.share for axis in self.axes) / len(self.axes)

    @property
    def positions(self) -> int:
        """How many values stand beside each other."""
        return math.prod(axis.length for axis in self.axes)

    @property
    def whole(self) -> Field:
        """Where every value depends on all."""
        return Field(tuple(axis.whole for axis in self.axes))


def start(sizes: Sequence[int]) -> Field | None:
    """Of a batch entry with these sizes; None where it has no dimension to look along."""
    return Field(tuple(Axis(size, size) for size in sizes)) if sizes else None


def after(
    func: Any, args: Sequence[Any], result: Tensor, read: Sequence[tuple[Tensor, Field]], rows: int
) -> Field:
    """The field of an operator's result.

    Args:
        func: the operator.
        args: what it was called with.
        result: what came out.
        read: the tensors that it reads and that depend on the input, with their fields.
        rows: of the batch.
    """
    name = str(func._overloadpacket).partition(".")[2]
    value, field = read[0]
    rule = _RULES.get(name)
    if name == "bmm" and len(read) == 1:
        rule = _linear
    if rule is not None:
        return rule(args, value, result, field, rows)
    product = name in ("bmm", "baddbmm") and len(read) > 1
    if product and field.positions > 1 and _over_positions(args[-1].shape[-2], field):
        return field.whole  # a sum over positions, as of products of channels
    if "attention" in name or (product and not _weighs(args[-2], result)):
        return _attention(result.shape[-2], field)
    if name.startswith(_RECURRENT):
        return field.whole
    # a gate is one number for many, broadcast; it is made of all the input, but only scales
    full = [f for t, f in read if product or t.numel() >= result.numel()]
    return max(full or [f for _, f in read], key=lambda f: f.share)


_RECURRENT = ("lstm", "gru", "rnn", "mkldnn_rnn", "_fft")


def _convolution(
    args: Sequence[Any], value: Tensor, result: Tensor, field: Field, rows: int
) -> Field:
    weight, stride, dilation = args[1], args[3], args[5]
    if args[6]:  # transposed
        stride = [1 / s for s in stride]
    return _slid(field, result, weight.shape[2:], stride, dilation)


def _pool(args: Sequence[Any], value: Tensor, result: Tensor, field: Field, rows: int) -> Field:
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    return _slid(field, result, kernel, stride, [1])


def _adaptive(args: Sequence[Any], value: Tensor, result: Tensor, field: Field, rows: int) -> Field:
    count = len(args[1])
    ratio = [a / b for a, b in zip(value.shape[-count:], result.shape[-count:], strict=True)]
    return _slid(field, result, [math.ceil(r) for r in ratio], ratio, [1])


def _resized(args: Sequence[Any], value: Tensor, result: Tensor, field: Field, rows: int) -> Field:
    count = value.dim() - 2
    ratio = [a / b for a, b in zip(value.shape[2:], result.shape[2:], strict=True)]
    return _slid(field, result, [1] * count, ratio, [1])


def _reduced(args: Sequence[Any], value: Tensor, result: Tensor, field: Field, rows: int) -> Field:
    """A mean over positions sees all of them; one over channels sees no more than before."""
    given = args[1] if len(args) > 1 else None
    dims = [given] if isinstance(given, int) else given
    if not isinstance(dims, list | tuple) or not dims:
        dims = range(value.dim())
    over = {d % value.dim() for d in dims if value.dim() and value.shape[d] > 1}
    return field.whole if over & _positions(value, field) else field


def _normed(args: Sequence[Any], value: Tensor, result: Tensor, field: Field, rows: int) -> Field:
    return _reduced((value, *args[2:3]), value, result, field, rows)


def _unfolded(args: Sequence[Any], value: Tensor, result: Tensor, field: Field, rows: int) -> Field:
    """Patches [B, C * k * k, L], one beside the other."""
    kernel, dilation, padding, stride = args[1:5]
    if len(field.axes) != 2:
        return field.whole
    lengths = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, d, p, s in zip(value.shape[2:], kernel, dilation, padding, stride, strict=True)
    ]
    windows = zip(field.axes, kernel, stride, dilation, lengths, strict=True)
    return Field(tuple(axis.through(*window) for axis, *window in windows))


def _sliced(args: Sequence[Any], value: Tensor, result: Tensor, field: Field, rows: int) -> Field:
    """Of every n-th position, each lies n times as far from the next."""
    dim, step = (args[1] if len(args) > 1 else 0) % value.dim(), args[4] if len(args) > 4 else 1
    found = sorted(_positions(value, field))
    if step == 1 or dim not in found or len(found) != len(field.axes):
        return field
    axes = list(field.axes)
    axes[found.index(dim)] = axes[found.index(dim)].through(1, step, 1, result.shape[dim])
    return Field(tuple(axes))


def _over_positions(size: int, field: Field) -> bool:
    """Whether a dimension holds all positions, with a class token or without."""
    return size in (field.positions, field.positions + 1)


def _positions(value: Tensor, field: Field) -> set[int]:
    """The dimensions of a tensor that hold positions: of maps, channels last or not, and tokens."""
    lengths, count = tuple(axis.length for axis in field.axes), len(field.axes)
    if tuple(value.shape[-count:]) == lengths and value.dim() > count:
        return set(range(value.dim() - count, value.dim()))
    if tuple(value.shape[1 : 1 + count]) == lengths:
        return set(range(1, 1 + count))
    sizes = {*lengths, field.positions, field.positions + 1}  # with a class token
    return {d for d in range(1, value.dim()) if value.shape[d] in sizes}


def _linear(args: Sequence[Any], value: Tensor, result: Tensor, field: Field, rows: int) -> Field:
    """All of it where positions lie in what is multiplied; the same at each position elsewhere."""
    many = field.positions > 1
    inside = _over_positions(value.shape[-1], field)
    calls, rest = divmod(value.shape[0], rows)  # calls of one network run as one
    alone = value.dim() == 2 and not rest and calls < min(field.positions, 5)
    return field.whole if many and (alone or inside) else field


def _weighs(scores: Tensor, result: Tensor) -> bool:
    """Whether a product only applies scores, [L, L], that were counted when they were made."""
    square = [x.shape[-1] == x.shape[-2] for x in (scores, result)]
    return square == [True, False]


def _attention(length: int, field: Field) -> Field:
    """All of it, or a window where fewer positions than there are attend to each other."""
    if length >= field.positions:
        return field.whole
    side = length ** (1 / len(field.axes))
    return Field(tuple(axis.through(side, 1, 1, axis.length) for axis in field.axes))


def _slid(
    field: Field, result: Tensor, kernel: Sequence[int], stride: Sequence[float],
    dilation: Sequence[int],
) -> Field:  # fmt: skip
    """Behind a window over the last dimensions; all of the input where those are not its own."""
    count = len(kernel)
    each = [[float(v) for v in x] * (count // len(x)) for x in (kernel, stride, dilation)]
    windows = list(zip(*each, result.shape[-count:], strict=True))
    surplus = count - len(field.axes)
    if surplus > 0:  # an image made of what has one dimension, or the other way round
        flat = [w for w in windows if w[0] == 1 and w[1] == 1]
        windows = [w for w in windows if w not in flat[:surplus]]
    if len(windows) != len(field.axes):
        return field.whole
    return Field(tuple(a.through(*w) for a, w in zip(field.axes, windows, strict=True)))


Rule = Callable[[Sequence[Any], Tensor, Tensor, Field, int], Field]
_RULES: dict[str, Rule] = {
    "convolution": _convolution,
    **dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d"), _pool),
    **dict.fromkeys(("max_pool3d_with_indices", "avg_pool3d", "avg_pool1d"), _pool),
    **dict.fromkeys(("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"), _adaptive),
    **dict.fromkeys(("adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d"), _resized),
    **dict.fromkeys(("upsample_linear1d", "upsample_bicubic2d", "upsample_nearest3d"), _resized),
    **dict.fromkeys(("mean", "sum", "amax", "max", "var", "std", "logsumexp"), _reduced),
    "linalg_vector_norm": _normed,
    "im2col": _unfolded,
    "slice": _sliced,
    **dict.fromkeys(("mm", "addmm", "linear"), _linear),
}
