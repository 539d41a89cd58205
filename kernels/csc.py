"""Channel and spatial correlation: cosines compared on the side that has fewer of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, float32
from torch.nn.functional import adaptive_avg_pool2d

from kdgraph.kernels._gram_ops import gap
from kdgraph.kernels.base import Kernel, register_kernel
from kdgraph.losses._math import by_channel
from kdgraph.losses.base import Loss
from kdgraph.losses.csc import CSC
from kdgraph.losses.spatial_correlation import SpatialCorrelation, sizes
from kdgraph.spec.shapes import Shape


@register_kernel("csc")
class CSCKernel(Kernel):
    """``csc`` in both variants, and ``spatial_correlation``.

    N positions of C channels are compared by [N, N] matrices where N <= C, else by [C, C]
    products, the delta-sigma form; so are channels. Where the numbers of channels differ the form
    does not exist.
    """

    losses = ("csc", "spatial_correlation")

    def declines(self, loss: Loss, **shapes: Shape) -> str | None:
        (C_s, N), (C_t, _) = sizes(shapes["student"]), sizes(shapes["teacher"])
        if C_s != C_t and min(C_s, C_t) < N:
            return (
                f"{C_s} and {C_t} channels differ, so that it would make [{N}, {N}] matrices; "
                "an adapter to equal channels helps"
            )
        return None

    def run(self, loss: Loss, **inputs: Any) -> Tensor:
        student, teacher = inputs["student"], inputs["teacher"]
        if isinstance(loss, SpatialCorrelation):
            s, t = by_channel(student).mT, by_channel(teacher).mT
            return gap(s, t) / s.shape[1] ** 2
        assert isinstance(loss, CSC)
        if loss.pool_to is not None:
            # in float32, so that means are not rounded before they are compared
            student, teacher = (
                adaptive_avg_pool2d(x.float(), loss.pool_to) for x in (student, teacher)
            )
        total: Tensor = student.new_zeros(len(student), dtype=float32)
        for gain, vectors in loss._terms():
            s, t = vectors(student), vectors(teacher)
            total = total + gain / s.shape[1] ** 2 * gap(s, t)
        return total
