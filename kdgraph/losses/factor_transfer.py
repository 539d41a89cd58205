"""Factor transfer: the same direction in a space that a paraphraser of the teacher has found."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._math import length, unit
from kdgraph.losses._part import part
from kdgraph.losses.base import MAPS, TOKENS, VECTORS, RowLoss, check_mask, same_features
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class FactorTransfer(RowLoss):
    """``||N(F_s) - N(F_t)||_p`` per sample, N the L2 norm over all values of the sample.

    Kim, Park, Kwak 2018 (arXiv 1802.04977). ``F_t`` are the teacher's factors: its features
    behind a paraphraser, the encoder of an autoencoder that was trained on them without labels;
    ``F_s`` those of the student behind a translator, the link's adapter. A teacher that ends in
    its paraphraser brings the factors as a tap; without one this compares directions of features.
    They are vectors [B, D], tokens [B, L, D] or maps [B, C, H, W] of equal shape. One row per
    sample.

    ``p`` is 1 or 2. torchdistill divides the norm of order 1 by the number of values.
    """

    use: Literal["factor_transfer"] = "factor_transfer"
    student: Ref
    teacher: Ref
    p: Literal[1, 2] = 1

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *VECTORS, *TOKENS, *MAPS)
        check_mask(mask, student[:1])

    def parts(self, *, student: Any, teacher: Any, **_: Any) -> dict[str, partial[Any]]:
        return {"student": partial(direction, student), "teacher": partial(direction, teacher)}

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        gap = student - teacher
        return gap.abs().sum(1) if self.p == 1 else length(gap, 1)


@part
def direction(x: Tensor) -> Tensor:
    """All values of a sample, [B, N] of length 1."""
    return unit(x.flatten(1), 1)
