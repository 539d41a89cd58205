"""Prime-aware: squared error, less of it for the samples that cannot be learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses.base import TOKENS, VECTORS, RowLoss, check_mask, same_features
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-6  # of a variance, as in torchdistill


@register_loss
class PrimeAware(RowLoss):
    """``mean_c ((F_t - F_s)**2 / exp(v_c) + v_c)``, ``v`` [B, D] a linear map of ``F_s``.

    Zhang et al. 2020 (arXiv 2008.01458), prime-aware adaptive distillation (PAD): the student
    tells for each sample how far it expects to be off, and a sample of which it expects little is
    asked of less. Features are vectors [B, D] or tokens [B, L, D] of equal shape; one row per
    sample or token. The map has D * D + D numbers that start at 0, so that the loss starts as
    plain squared error; torchdistill puts a batch norm behind its own, and trains it in a second
    stage. The value may be negative.
    """

    use: Literal["prime_aware"] = "prime_aware"
    student: Ref
    teacher: Ref

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *VECTORS, *TOKENS)
        check_mask(mask, student[:-1])

    def parameters(self, *, student: Shape, **_: Shape) -> dict[str, Tensor]:
        from torch import zeros

        return {"expects": zeros(student[-1], student[-1]), "bias": zeros(student[-1])}

    def rows(self, *, student: Tensor, teacher: Tensor, expects: Tensor, bias: Tensor) -> Tensor:
        v = student @ expects.to(student.dtype).mT + bias
        square = (teacher - student).square()
        return (square / (_LEAST + v.exp()) + v).mean(-1)
