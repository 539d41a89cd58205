"""Attention transfer: the student looks where the teacher looks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from kdgraph.losses._math import by_channel, length, unit
from kdgraph.losses._part import part
from kdgraph.losses.base import MAPS, TOKENS, RowLoss, check_mask, same_features
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class AttentionTransfer(RowLoss):
    """Distance of ``Q_s`` and ``Q_t``, where ``Q = N(sum_c |F_c|**p)``, N the L2 norm over pixels.

    Zagoruyko, Komodakis 2017 (arXiv 1612.03928). Features are maps [B, C, H, W] or tokens
    [B, L, D] of equal size; the numbers of channels may differ. One row per sample.

    Variants: ``code`` (the default), the authors' program, is ``mean (Q_s - Q_t)**2`` over the
    pixels; ``paper`` is ``||Q_s - Q_t||``, not squared. The paper puts beta / 2 before its sum,
    and beta is the edge's ``weight`` here. ``p`` is 2 in the program.
    """

    use: Literal["attention_transfer"] = "attention_transfer"
    student: Ref
    teacher: Ref
    variant: Literal["code", "paper"] = "code"
    p: Annotated[float, Field(ge=1, le=4)] = 2.0  # beyond 4 the powers overflow float32

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *TOKENS, *MAPS, channels=False)
        check_mask(mask, student[:1])

    def parts(self, *, student: Any, teacher: Any, **_: Any) -> dict[str, partial[Any]]:
        sides = {"student": student, "teacher": teacher}
        return {field: partial(attention, x, self.p) for field, x in sides.items()}

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        gap = student - teacher
        return gap.square().mean(1) if self.variant == "code" else length(gap, 1)


@part
def attention(x: Tensor, p: float) -> Tensor:
    """``Q``, [B, N] of length 1."""
    energy = by_channel(x).abs().pow(p).sum(1)
    top = energy.detach().amax(1, keepdim=True)  # its square would overflow float32
    return unit(energy / top.where(top > 0, 1), 1)
