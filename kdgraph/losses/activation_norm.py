"""Activation norm: the student's activations are kept small, so that some become silent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses.base import MAPS, TOKENS, VECTORS, RowLoss, check_mask, without_channels
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim, rank

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class ActivationNorm(RowLoss):
    """``sum_c |F_s|`` over the channels.

    The L1 penalty on activations of Sener, Akbas 2022 (10.29109/gujsc.1141648), summed over the
    neurons so that its strength does not change when some are removed.

    Variants: ``norm: l1`` (the default) as above; ``l2`` is half the sum of squares. Features are
    vectors [B, D], tokens [B, L, D] or maps [B, C, H, W]; one row per sample, token or pixel.
    """

    use: Literal["activation_norm"] = "activation_norm"
    student: Ref
    norm: Literal["l1", "l2"] = "l1"

    def shapes(self, *, student: Shape, mask: Shape | None = None) -> None:
        rank("student", student, *VECTORS, *TOKENS, *MAPS)
        check_mask(mask, without_channels(student))

    def rows(self, *, student: Tensor) -> Tensor:
        dim = class_dim(tuple(student.shape))
        return student.abs().sum(dim) if self.norm == "l1" else student.square().sum(dim) / 2
