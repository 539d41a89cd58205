"""Virtual teacher: a distribution made by hand around the label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, rank, show
from kdgraph.spec.steer import Tau

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class VirtualTeacher(Signal):
    """``p_k = c for the label, (1 - c) / (K - 1) for the others``, at temperature ``tau``.

    The manually designed teacher of Tf-KD (Yuan et al. 2020, arXiv 1909.11723), as probabilities.
    ``correct`` is c. ``label`` are class indices [B], [B, L] or [B, H, W]; of ``like``, logits
    [B, K], [B, L, K] or [B, K, H, W], only the shape and the type are read.

    Variants: ``power_renorm`` (the default) is ``p**(1 / tau)``, divided by its sum, which is what
    a temperature does to any teacher, as ``log p`` are logits of p; at ``tau: 1`` it is p itself.
    ``softmax_of_probs`` is ``softmax(p / tau)`` of the official code, which takes probabilities
    for logits: with c = 0.99 and tau = 20 the label then has 1.05 times the probability of any
    other class, and not 1.58 times as with 100 classes by ``power_renorm``.

    A label equal to ``ignore_index`` gives a row of zeros, which costs nothing; give the loss
    that reads the target the signal ``labelled`` as its ``mask``, so that it is not counted
    either.
    """

    teaches: ClassVar[bool] = True

    gives = "probabilities"

    use: Literal["virtual_teacher"] = "virtual_teacher"
    label: Ref
    like: Ref
    correct: Annotated[float, Field(gt=0, le=1)] = 0.99
    tau: Tau = 20.0
    variant: Literal["power_renorm", "softmax_of_probs"] = "power_renorm"
    ignore_index: int = -100

    def shape(self, *, label: Shape, like: Shape) -> Shape:
        rank("virtual_teacher needs logits: 'like'", like, 2, 3, 4)
        at = class_dim(like)
        if label != like[:at] + like[at + 1 :]:
            raise ShapeMismatch(f"labels {show(label)} do not fit to logits {show(like)}")
        if self.correct * like[at] < 0.999:
            raise ShapeMismatch(
                f"'correct' is {self.correct:g}, less than the even share of {like[at]} classes"
            )
        return like

    def forward(self, *, label: Tensor, like: Tensor, tau: Tensor | float) -> Tensor:
        from kdgraph.signals._module import lined_up, wide

        blank = wide(like.detach())
        dim = class_dim(tuple(like.shape))
        others = like.shape[dim] - 1
        ratio = lined_up(self._ratio(others, tau), blank)
        peak = 1 / (1 + others * ratio)
        known = (label != self.ignore_index).unsqueeze(dim)
        index = label.long().unsqueeze(dim).where(known, 0)
        hot = blank.new_zeros(blank.shape).scatter_(dim, index, 1)
        target: Tensor = (hot + (1 - hot) * ratio) * peak
        return target.where(known, 0)

    def _ratio(self, others: int, tau: Tensor | float) -> Any:
        """The probability of another class, divided by that of the label."""
        from math import e

        rest = (1 - self.correct) / max(others, 1)
        if self.variant == "power_renorm":
            return (rest / self.correct) ** (1 / tau)
        return e ** ((rest - self.correct) / tau)
