"""Channel-wise: each channel of the student is active where the teacher's is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._math import by_channel, divergence
from kdgraph.losses._part import part
from kdgraph.losses.base import (
    MAPS,
    TOKENS,
    RowLoss,
    check_mask,
    per_sample,
    same_features,
)
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class ChannelWise(RowLoss):
    """``tau**2 * KL(softmax(F_t / tau) || softmax(F_s / tau))``, the softmax over the pixels.

    Channel-wise distillation (CWD): Shu et al. 2021 (arXiv 2011.13256). Features (or the logits
    of segmentation) are maps [B, C, H, W], or tokens [B, L, D] with the softmax over L, of equal
    shape. One row per channel, [B, C]; the default reduction is the mean over samples and
    channels, as in the paper.
    """

    use: Literal["channel_wise"] = "channel_wise"
    student: Ref
    teacher: Ref
    tau: Tau = 1.0

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *TOKENS, *MAPS)
        check_mask(mask, (student[0], student[class_dim(student)]))

    def parts(self, *, student: Any, teacher: Any, tau: Any, **_: Any) -> dict[str, partial[Any]]:
        sides = {"student": student, "teacher": teacher}
        return {field: partial(log_activity, x, tau) for field, x in sides.items()}

    def rows(self, *, student: Tensor, teacher: Tensor, tau: Tensor | float) -> Tensor:
        kl = divergence(teacher, student).sum(2)
        return kl * per_sample(tau, kl) ** 2


@part
def log_activity(x: Tensor, tau: Tensor | float) -> Tensor:
    """[B, C, N], the logarithm of a softmax over the pixels."""
    channels = by_channel(x)
    return (channels / per_sample(tau, channels)).log_softmax(2)
