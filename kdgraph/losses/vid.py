"""Variational information distillation: squared error with a learned variance per channel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from kdgraph.losses.base import (
    MAPS,
    TOKENS,
    VECTORS,
    RowLoss,
    check_mask,
    same_features,
    without_channels,
)
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class VID(RowLoss):
    """``mean_c ((F_t - F_s)**2 / v_c + log v_c) / 2`` with a learned variance ``v`` [C].

    Ahn et al. 2019 (arXiv 1904.05835). Features are vectors [B, D], tokens [B, L, D] or maps
    [B, C, H, W] of equal shape; one row per sample, token or pixel. ``v`` starts at 5 and stays
    above 1e-5, as in the authors' code; their regressor is the adapter of the link. The value may
    be negative.
    """

    use: Literal["vid"] = "vid"
    student: Ref
    teacher: Ref

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *VECTORS, *TOKENS, *MAPS)
        check_mask(mask, without_channels(student))

    def parameters(self, *, teacher: Shape, **_: Shape) -> dict[str, Tensor]:
        from torch import full

        return {"spread": full((teacher[class_dim(teacher)],), math.log(math.expm1(5 - 1e-5)))}

    def rows(self, *, student: Tensor, teacher: Tensor, spread: Tensor) -> Tensor:
        from torch.nn.functional import softplus

        at = class_dim(tuple(teacher.shape))
        v = softplus(spread).reshape(-1, *[1] * (teacher.dim() - 1 - at)) + 1e-5
        return ((teacher - student).square() / v + v.log()).mean(at) / 2
