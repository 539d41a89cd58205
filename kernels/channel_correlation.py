"""Channel correlation: products of channels in tiles of one triangle, from maps as they lie."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdgraph.kernels._gram_ops import gap
from kdgraph.kernels.base import Kernel, register_kernel
from kdgraph.losses._math import by_channel
from kdgraph.losses.base import Loss
from kdgraph.losses.channel_correlation import ChannelCorrelation


@register_kernel("channel_correlation")
class ChannelCorrelationKernel(Kernel):
    """All three variants; ``cosine`` on the cheaper side, as the loss's ``delta_sigma`` form.

    Float32 features keep the digits of a student close to its teacher where both have the same
    number of positions: the difference of the two Gram matrices is made of ``F_s - F_t``.
    """

    losses = ("channel_correlation",)

    def run(self, loss: Loss, **inputs: Any) -> Tensor:
        assert isinstance(loss, ChannelCorrelation)
        s, t = by_channel(inputs["student"]), by_channel(inputs["teacher"])
        C = s.shape[1]
        return gap(s, t, cosine=loss.variant == "cosine") / (C if loss.variant == "code" else C**2)
