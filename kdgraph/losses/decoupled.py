"""Decoupled distillation: the label's probability apart from the shares of all other classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses._labels import LabelledRows
from kdgraph.losses._math import divergence
from kdgraph.losses.base import per_sample, same_classes
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim
from kdgraph.spec.steer import Tau, Weight

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class Decoupled(LabelledRows):
    """``tau**2 * (alpha * KL(b_t || b_s) + beta * KL(r_t || r_s))``.

    DKD: Zhao et al. 2022 (arXiv 2203.08679). ``b`` are the two probabilities of the label and of
    all else, r the distribution over the other classes given that the label is wrong, both at
    temperature ``tau``. Plain distillation is ``alpha = 1, beta = 1 - p_label`` of the teacher.

    The defaults 1 and 8 are the paper's for most pairs on CIFAR-100; its program also ramps the
    whole term up over the first epochs, which is a schedule as ``weight`` here. Logits are [B, K],
    [B, L, K] or maps [B, K, H, W] with K >= 2, ``target`` the class indices; one row per sample,
    token or pixel. Rows whose label is ``ignore_index`` do not count. The paper's program takes
    the logarithm of a summed softmax, which can reach -inf; here everything stays a logarithm.
    """

    teaches_as = "logits"

    use: Literal["decoupled"] = "decoupled"
    student: Ref
    teacher: Ref
    target: Ref
    alpha: Weight = 1.0
    beta: Weight = 8.0
    tau: Tau = 4.0

    def shapes(
        self, *, student: Shape, teacher: Shape, target: Shape, mask: Shape | None = None
    ) -> None:
        same_classes(student, teacher)
        if student[class_dim(student)] < 2:
            raise ShapeMismatch("with one class there are no others")
        self.fit(student, target, mask)

    def rows(
        self,
        *,
        student: Tensor,
        teacher: Tensor,
        target: Tensor,
        alpha: Tensor | float,
        beta: Tensor | float,
        tau: Tensor | float,
    ) -> Tensor:
        dim = class_dim(tuple(student.shape))
        label = self.classes(target).unsqueeze(dim)
        one_s, rest_s = _split(student / per_sample(tau, student), label, dim)
        one_t, rest_t = _split(teacher / per_sample(tau, teacher), label, dim)
        binary = divergence(one_t, one_s).sum(dim)
        # a teacher that leaves no other class says nothing about them
        others = divergence(rest_t, rest_s).sum(dim).where((rest_t > -float("inf")).any(dim), 0)
        value = per_sample(alpha, binary) * binary + per_sample(beta, others) * others
        return value * per_sample(tau, value) ** 2


def _split(z: Tensor, label: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Logarithms: of the label and of all else (2 classes), and of each other class among those."""
    from torch import cat

    nothing = -float("inf")
    others = z.scatter(dim, label, nothing)
    some = (others > nothing).any(dim, keepdim=True)
    others = others.where(some, 0)  # what is taken of it is left out again
    whole = others.logsumexp(dim, keepdim=True).where(some, nothing)
    pair = cat([z.gather(dim, label), whole], dim)
    return pair.log_softmax(dim), others.log_softmax(dim).where(some, nothing)
