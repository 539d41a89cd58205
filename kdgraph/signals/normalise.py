"""Normalise: the size of a tensor taken out, its direction kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, show

if TYPE_CHECKING:
    from torch import Tensor

_SMALLEST = 1e-12  # a row whose largest value is below this counts as zero
_FLATTEST = 1e-6  # a row whose spread is below this part of its largest value, as constant
_NOTHING = 1e-30  # beside a variance that is told from 0


@register_signal
class Normalise(Signal):
    """Unit length (``l2``), or mean 0 and standard deviation 1 (``standardise``).

    ``standardise`` on the logits of both sides is logit standardisation (Sun et al. 2024,
    2403.01427), with the deviation over K as in the paper; the published code divides by K - 1,
    which is the same at a temperature larger by sqrt(K / (K - 1)). ``over: channels`` takes the
    classes or channels of each position, ``over: sample`` all values of each sample.

    A row without a direction (zero, or constant under ``standardise``, as far as float32 can
    tell) gives zeros and passes no gradient, so that a head that starts at zero is safe.
    """

    use: Literal["normalise"] = "normalise"
    of: Ref
    mode: Literal["l2", "standardise"] = "l2"
    over: Literal["channels", "sample"] = "channels"

    def shape(self, *, of: Shape) -> Shape:
        if len(of) < 2:
            raise ShapeMismatch(f"one value per sample, {show(of)}, cannot be normalised")
        if self.mode == "standardise" and all(of[d] == 1 for d in self._dims(of)):
            raise ShapeMismatch(f"{show(of)} has a single value over {self.over}, so no spread")
        return of

    def forward(self, *, of: Tensor) -> Tensor:
        from kdgraph.signals._module import wide

        x = wide(of)
        dims = self._dims(tuple(x.shape))
        if self.mode == "standardise":
            return _standardised(x, dims)
        # The result does not depend on scale, so a constant one keeps squares within range.
        peak = x.detach().abs().amax(dims, keepdim=True)
        x = x / peak.where(peak > _SMALLEST, 1)
        square = x.square().sum(dims, keepdim=True)
        told = (peak > _SMALLEST) & (square > _FLATTEST**2)
        return x * square.where(told, 1).rsqrt().where(told, 0)

    def _dims(self, shape: Shape) -> tuple[int, ...]:
        return (class_dim(shape),) if self.over == "channels" else tuple(range(1, len(shape)))


def _standardised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean 0 and deviation 1 over ``dims``, in few sweeps over the data."""
    from torch.nn.functional import layer_norm

    last = x.movedim(dims, tuple(range(-len(dims), 0)))
    rows = last.flatten(-len(dims))
    low, high = rows.detach().amin(-1, keepdim=True), rows.detach().amax(-1, keepdim=True)
    peak = high.maximum(-low)
    told = (peak > _SMALLEST) & (high - low > _FLATTEST * peak)
    # Squares stay within range; a row without a direction is 0, and so is its gradient.
    scaled = rows * peak.reciprocal().where(told, 0)
    normal = layer_norm(scaled, scaled.shape[-1:], eps=_NOTHING)
    result = normal.reshape(last.shape)
    return result.movedim(tuple(range(-len(dims), 0)), dims)
