"""Universal logit distillation: probabilities in order of size, whatever the classes are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._part import tempered
from kdgraph.losses.base import (
    MAPS,
    TOKENS,
    VECTORS,
    RowLoss,
    check_mask,
    without_channels,
)
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, rank, show
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class ULD(RowLoss):
    """``sum_k |sorted(p)_k - sorted(q)_k|``, both from large to small.

    Boizard et al. 2024 (arXiv 2402.12030): the Wasserstein distance of two distributions whose
    classes (tokens of different vocabularies) have nothing to do with each other. The shorter side
    is filled up with zeros. ``p = softmax(z_t / tau)``, q likewise of the student. Logits are
    [B, K], [B, L, K] or maps [B, K, H, W], K of each side its own; one row per sample, token or
    pixel, which have to correspond.
    """

    teaches_as = "logits"

    use: Literal["uld"] = "uld"
    student: Ref
    teacher: Ref
    tau: Tau = 1.0

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        for side, shape in (("student", student), ("teacher", teacher)):
            rank(f"{side} logits", shape, *VECTORS, *TOKENS, *MAPS)
        rows = without_channels(student)
        if rows != without_channels(teacher) or len(student) != len(teacher):
            raise ShapeMismatch(
                f"student logits {show(student)} and teacher logits {show(teacher)} must have the "
                "same samples and positions"
            )
        check_mask(mask, rows)

    def parts(self, *, student: Any, teacher: Any, tau: Any, **_: Any) -> dict[str, partial[Any]]:
        return tempered(student, teacher, tau)

    def rows(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        from torch.nn.functional import pad

        dim = class_dim(tuple(student.shape))
        q, p = (
            x.exp().movedim(dim, -1).sort(-1, descending=True).values for x in (student, teacher)
        )
        more = p.shape[-1] - q.shape[-1]
        return (pad(p, (0, max(-more, 0))) - pad(q, (0, max(more, 0)))).abs().sum(-1)
