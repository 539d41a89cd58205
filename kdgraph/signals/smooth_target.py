"""Smooth target: labels, mixed with a distribution, as probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, rank, show
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class SmoothTarget(Signal):
    """``(1 - by) label + by softmax(toward / tau)``: probabilities, in the layout of ``toward``.

    Label smoothing whose prior is a model instead of the uniform distribution (Lee, Cheung and
    Zhang 2022, arXiv 2210.13459). ``toward`` are logits [B, K], [B, L, K] or [B, K, H, W],
    constant for autograd; ``label`` are class indices [B], [B, L] or [B, H, W]. ``by`` is a share
    from 0 to 1: a signal that is one number, [B] or of the shape of the labels, whose gradient,
    if it has one, is passed on. A very large ``tau`` makes the prior uniform.

    A label equal to ``ignore_index`` gives a row of zeros, which costs nothing; give the loss
    that reads the target the signal ``labelled`` as its ``mask``, so that it is not counted
    either.
    """

    gives = "probabilities"

    use: Literal["smooth_target"] = "smooth_target"
    label: Ref
    toward: Ref
    by: Ref
    tau: Tau = 1.0
    ignore_index: int = -100

    def shape(self, *, label: Shape, toward: Shape, by: Shape) -> Shape:
        rank("smooth_target needs logits: 'toward'", toward, 2, 3, 4)
        at = class_dim(toward)
        if label != toward[:at] + toward[at + 1 :]:
            raise ShapeMismatch(f"labels {show(label)} do not fit to logits {show(toward)}")
        if by != label[: len(by)]:
            raise ShapeMismatch(
                f"{self.by} {show(by)} must be one number, [B], or {show(label)} as the labels"
            )
        return toward

    def forward(
        self, *, label: Tensor, toward: Tensor, by: Tensor, tau: Tensor | float = 1.0
    ) -> Tensor:
        from kdgraph.signals._module import lined_up, wide

        z = wide(toward).detach()
        dim = class_dim(tuple(z.shape))
        known = label != self.ignore_index
        prior = (z / lined_up(tau, z)).softmax(dim)
        index = label.long().where(known, 0).unsqueeze(dim)
        hard = prior.new_zeros(prior.shape).scatter_(dim, index, 1)
        share = lined_up(by.to(prior.dtype), label).expand_as(label).unsqueeze(dim)
        target: Tensor = (1 - share) * hard + share * prior
        return target.where(known.unsqueeze(dim), 0)
