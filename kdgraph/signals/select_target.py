"""Select target: learn from the teacher where it is right, from the label where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, rank, show

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class SelectTarget(Signal):
    """``q`` where the teacher is right, ``onehot(y)`` where it is not; ``q = softmax(teacher)``.

    The target of the adaptive cross-entropy: Park, Heo 2020 (10.3390/s20164616), reconstructed
    from the abstract. ``teacher`` holds logits [B, K], [B, L, K] or [B, K, H, W], ``label`` class
    numbers of the same rows ([B], [B, L] or [B, H, W]). The result is probabilities in the layout
    of the logits, without gradient; a row whose label is ``ignore_index`` is all zeros, and
    belongs behind a mask (``use: labelled``).

    Variants: ``hard`` (the default) takes the teacher where its largest logit is that of the
    label; ``soft`` mixes, ``q_y q + (1 - q_y) onehot(y)``, by how much it believes the label.
    """

    gives = "probabilities"

    use: Literal["select_target"] = "select_target"
    teacher: Ref
    label: Ref
    variant: Literal["hard", "soft"] = "hard"
    ignore_index: int = -100

    def shape(self, *, teacher: Shape, label: Shape) -> Shape:
        rank("teacher logits", teacher, 2, 3, 4, 5)
        at = class_dim(teacher)
        rows = teacher[:at] + teacher[at + 1 :]
        if label != rows:
            maps = len(label) == len(rows) > 2 and label[0] == rows[0]
            raise ShapeMismatch(
                f"labels {show(label)} are not those of teacher logits {show(teacher)}",
                adapters=("signal resize",) if maps else (),
            )
        return teacher

    def forward(self, *, teacher: Tensor, label: Tensor) -> Tensor:
        import torch

        from kdgraph.signals._module import wide

        dim = class_dim(tuple(teacher.shape))
        logits = wide(teacher.detach())
        known = label != self.ignore_index
        index = label.long().where(known, 0).unsqueeze(dim)  # what is ignored may be no class
        q = logits.softmax(dim)
        onehot = torch.zeros_like(q).scatter_(dim, index, 1.0)
        if self.variant == "hard":
            target = q.where(logits.argmax(dim, keepdim=True) == index, onehot)
        else:
            target = torch.lerp(onehot, q, q.gather(dim, index).expand_as(q))
        return target.where(known.unsqueeze(dim), 0)
