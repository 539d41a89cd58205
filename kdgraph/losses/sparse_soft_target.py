"""Sparse soft target: the teacher as its k likeliest classes, by value and class number."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from kdgraph.losses._math import divergence
from kdgraph.losses.base import TOKENS, VECTORS, RowLoss, check_mask, per_sample
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, rank, show
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class SparseSoftTarget(RowLoss):
    """``tau**2 * KL(p || q)`` with a teacher of whom only k classes per row are known.

    Sparse logit distillation as in Peng et al. 2024 (arXiv 2410.16215); unlike ``top_k`` it needs
    no teacher beside the student. Logits are [B, K] or [B, L, K]. ``ids`` [B, k] or [B, L, k] are
    class numbers, which differ within a row; ``values``, of the same shape, are the teacher's
    log-probabilities of these classes at temperature 1. A value of -inf lists nothing: rows of
    fewer than k classes are filled up with it, and any id. One row per sample or token.

    ``tail`` says what becomes of the classes that are not listed:

    * ``bucket`` (the default): on each side what is left of 1 is one more class. Both sides are
      grouped at temperature 1 and tempered then, because of the teacher's rest nothing is known
      but its sum. At ``tau: 1`` that is ``top_k`` with the same ``tail``; ``top_k``, which has
      the whole row, tempers first.
    * ``zero``: the teacher gives them nothing. Its k probabilities are made to add up to 1; the
      student's are taken over all classes, so what it gives to others costs.
    * ``renormalise``: both sides given that the class is one of the k, as in ``top_k``.

    Where nothing is left to a bucket because of rounding (the listed probabilities add up to more
    than 1), it is empty. With ``zero`` and ``renormalise`` the values may be logits too, and a row
    that lists nothing is 0. ``scale: false`` leaves the factor out. ``fused_head: true``, for
    ``bucket`` and ``zero``, computes it from the hidden states that the student's linear head
    reads, as in ``soft_target``.
    """

    use: Literal["sparse_soft_target"] = "sparse_soft_target"
    student: Ref
    values: Ref
    ids: Ref
    tail: Literal["bucket", "zero", "renormalise"] = "bucket"
    tau: Tau = 1.0
    scale: bool = True
    fused_head: bool = False
    integers: ClassVar[tuple[str, ...]] = ("ids",)

    def shapes(
        self, *, student: Shape, values: Shape, ids: Shape, mask: Shape | None = None
    ) -> None:
        rank("student logits", student, *VECTORS, *TOKENS)
        for what, shape in (("values", values), ("ids", ids)):
            if shape[:-1] != student[:-1] or len(shape) != len(student):
                wanted = show(student[:-1])[:-1]
                raise ShapeMismatch(f"{what} must be {wanted}, k], not {show(shape)}")
        if values != ids or not 0 < ids[-1] <= student[-1]:
            raise ShapeMismatch(
                f"values {show(values)} and ids {show(ids)} must be equally many, at least 1 and "
                f"at most as many as the logits {show(student)} have classes"
            )
        check_mask(mask, student[:-1])

    def rows(self, *, student: Tensor, values: Tensor, ids: Tensor, tau: Tensor | float) -> Tensor:
        from kdgraph.losses._sparse import student_side, teacher_side

        log_p = teacher_side(values, tau, self.tail, student.shape[-1])
        log_q = student_side(student, values, ids, tau, self.tail)
        kl = divergence(log_p, log_q).sum(-1)
        if self.tail != "bucket":
            kl = kl.where((values != -float("inf")).any(-1), 0)
        return kl * per_sample(tau, kl) ** 2 if self.scale else kl
