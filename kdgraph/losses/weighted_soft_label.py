"""Weighted soft labels: the teacher counts less where the student already does as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses._labels import LabelledRows
from kdgraph.losses.base import per_sample, same_classes
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, class_dim
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor

_SURE = 1e-7  # a cross entropy below this is a teacher without doubt


@register_loss
class WeightedSoftLabel(LabelledRows):
    """``tau**2 * (1 - exp(-CE_s / CE_t)) * CE(p_t, p_s)``, both p at tau.

    WSLD: Zhou et al. 2021 (arXiv 2102.00650). ``CE_s`` and ``CE_t`` are the cross entropies of
    both sides with the label at temperature 1; the weight made of them has no gradient. Logits
    are [B, K], [B, L, K] or maps [B, K, H, W], ``target`` the class indices; one row per sample,
    token or pixel. Rows whose label is ``ignore_index`` do not count.
    """

    teaches_as = "logits"

    use: Literal["weighted_soft_label"] = "weighted_soft_label"
    student: Ref
    teacher: Ref
    target: Ref
    tau: Tau = 2.0

    def shapes(
        self, *, student: Shape, teacher: Shape, target: Shape, mask: Shape | None = None
    ) -> None:
        same_classes(student, teacher)
        self.fit(student, target, mask)

    def rows(
        self, *, student: Tensor, teacher: Tensor, target: Tensor, tau: Tensor | float
    ) -> Tensor:
        dim = class_dim(tuple(student.shape))
        label = self.classes(target).unsqueeze(dim)
        own, known = (
            -z.detach().log_softmax(dim).gather(dim, label).squeeze(dim) for z in (student, teacher)
        )
        weight = -(-own / known.clamp_min(_SURE)).expm1()
        p = (teacher / per_sample(tau, teacher)).softmax(dim)
        log_q = (student / per_sample(tau, student)).log_softmax(dim)
        soft = -(p * log_q).where(p > 0, 0).sum(dim)
        # an infinite cost of the teacher's says nothing about the label
        weight = weight.where(known < float("inf"), 0)
        return (soft * weight).where(weight != 0, 0) * per_sample(tau, soft) ** 2
