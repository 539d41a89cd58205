"""Entropy match: the temperature at which each sample's distribution is as uniform as asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, rank

if TYPE_CHECKING:
    from torch import Tensor

_LOWEST, _HIGHEST = -16.0, 10.0  # exponents of 2, times the distance of the extreme logits


@register_signal
class EntropyMatch(Signal):
    """``tau`` with ``H(softmax(z / tau)) = entropy * ln K``, one for each sample, [B].

    From logits [B, K], which are constant for autograd; ``entropy`` lies between 0 (one class) and
    1 (uniform). A named variant of the teacher's temperature for extractive distillation
    (Kobayashi 2022, WACV); the rule is a reconstruction.

    The entropy grows with ``tau``; the root is found by halving an interval in the logarithm of
    ``tau`` a fixed number of times. It reaches from 2**-16 to 2**10 times the distance between
    the largest and the smallest logit, and its end is the answer where it holds no root: where k
    classes share the maximum, the entropy is never below ``ln k``. Where all logits are equal,
    ``tau`` is 1. Classes whose logit is -inf are not counted.
    """

    use: Literal["entropy_match"] = "entropy_match"
    of: Ref
    entropy: Annotated[float, Field(gt=0, lt=1, examples=[0.9])]

    def shape(self, *, of: Shape) -> Shape:
        rank("entropy_match needs logits [B, K]: they", of, 2)
        return of[:1]

    def forward(self, *, of: Tensor) -> Tensor:
        import torch

        from kdgraph.signals._module import wide

        z = wide(of.detach())
        possible = z > -float("inf")
        largest = z.amax(1, keepdim=True)
        distance = largest - z.where(possible, float("inf")).amin(1, keepdim=True)
        told = distance > 8 * torch.finfo(z.dtype).eps * z.where(possible, 0).abs().amax(1, True)
        u = (z - largest) / distance.where(told, 1)  # from -1 to 0
        wanted = self.entropy * possible.sum(1, keepdim=True).to(z.dtype).log()
        low = torch.full_like(largest, _LOWEST)
        high = torch.full_like(largest, _HIGHEST)
        for _ in range(30 if z.dtype == torch.float32 else 50):
            middle = (low + high) / 2
            log_p = (u * (-middle).exp2()).log_softmax(1)
            found = -(log_p.exp() * log_p).where(possible, 0).sum(1, keepdim=True)
            low, high = middle.where(found < wanted, low), high.where(found < wanted, middle)
        return (((low + high) / 2).exp2() * distance).where(told, 1).squeeze(1)
