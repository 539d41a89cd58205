"""Log-sum: a distance of features that asks less and less of those that are near already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdgraph.losses.base import MAPS, TOKENS, VECTORS, Loss, same_features
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor

_NOTHING = 1e-12  # beside the sum: equal sides have a finite value and a gradient of 0


@register_loss
class LogSum(Loss):
    """``log sum |F_s - F_t|**exponent`` over the whole batch.

    Miles, Mikolajczyk 2024 (arXiv 2303.11098), their simple recipe distillation (SRD): the
    student's features go through a linear map (the link's adapter), and both sides through a batch
    norm, which a tap can stand behind; torchdistill adds twice this value to the divergence of
    ``soft_target``, without its ``tau**2``. Features are vectors [B, D], tokens [B, L, D] or maps
    [B, C, H, W] of equal shape. The sum is over all of the batch, so a batch that is repeated
    adds a number and no gradient. Rows are not told apart, so there is no ``mask``: the signal
    ``masked`` on both sides, with the same mask, makes pads 0, which adds nothing to the sum.

    The larger ``exponent``, the more the largest differences have to say; 4 is that of
    torchdistill's example for ImageNet, whose default is 1.
    """

    use: Literal["log_sum"] = "log_sum"
    student: Ref
    teacher: Ref
    exponent: Annotated[float, Field(ge=1, le=6)] = 4.0  # beyond 6 the powers overflow float32

    def shapes(self, *, student: Shape, teacher: Shape) -> None:
        same_features(student, teacher, *VECTORS, *TOKENS, *MAPS)

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        powers = (student - teacher).abs().pow(self.exponent)
        return (powers.sum() + _NOTHING).log()
