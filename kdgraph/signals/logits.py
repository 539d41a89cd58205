"""Logits: a distribution as logits whose softmax it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, rank
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Logits(Signal):
    """``tau * ln p``: logits of which ``probabilities`` makes ``p`` again at the same ``tau``.

    What reads logits (``ensemble``, ``certainty``, ``soft_target``) can so read probabilities from
    the batch or from a signal, [B, K], [B, L, K] or [B, K, H, W]. ``softmax(ln p / s)`` is
    ``p**(1/s)``, divided by its sum: behind this signal, ``probabilities`` with ``tau: s`` sharpens
    a distribution (s < 1) or flattens it.

    A probability of 0 counts as the smallest positive number of its type, so that the logarithm is
    finite. Gradients pass where ``p`` is larger.
    """

    gives = "logits"

    use: Literal["logits"] = "logits"
    of: Ref
    tau: Tau = 1.0

    def shape(self, *, of: Shape) -> Shape:
        rank(
            "logits are made of probabilities [B, K], [B, L, K] or [B, K, H, W]: they", of, 2, 3, 4
        )
        return of

    def forward(self, *, of: Tensor, tau: Tensor | float) -> Tensor:
        from torch import finfo

        from kdgraph.signals._module import lined_up, wide

        p = wide(of)
        result: Tensor = p.clamp_min(finfo(p.dtype).tiny).log() * lined_up(tau, p)
        return result
