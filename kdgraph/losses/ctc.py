"""Connectionist temporal classification: labels in order, at times that nobody has marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from kdgraph.losses.base import RowLoss, check_mask
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, rank, same_batch, show

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class CTC(RowLoss):
    """``-log sum_a prod_f softmax(z_f)_(a_f)`` over all alignments ``a`` that read as the target.

    Graves, Fernandez, Gomez, Schmidhuber 2006 (10.1145/1143844.1143891). An alignment names one
    class for each frame; it reads as the target once repeats are joined and ``blank`` is taken
    out. Logits are [B, F, V]; targets are class numbers [B, S], padded with anything within V;
    ``input_lengths`` [B] is how many frames count (at most F), ``target_lengths`` [B] how many
    labels do (at most S). Batch entries hold them as integers; of what signals compute, fractions
    are cut off. One row per utterance.

    ``reduction: mean`` (the default) is the mean over the utterances of -log p. Torch's ``mean``
    divides each by the length of its target first, so that a long utterance counts no more than
    a short one; the two differ by more than a factor. An utterance too short for its target has
    no alignment: it counts 0, has no gradient, and stays in the number that ``mean`` divides by.

    Frames behind the length are not looked at, and may hold nan.
    """

    use: Literal["ctc"] = "ctc"
    student: Ref
    target: Ref
    input_lengths: Ref
    target_lengths: Ref
    blank: Annotated[int, Field(ge=0)] = 0
    integers: ClassVar[tuple[str, ...]] = ("input_lengths", "target_lengths")

    def shapes(
        self,
        *,
        student: Shape,
        target: Shape,
        input_lengths: Shape,
        target_lengths: Shape,
        mask: Shape | None = None,
    ) -> None:
        rank("student logits", student, 3)
        rank("the target", target, 2)
        same_batch(student, target)
        for what, lengths in (("input", input_lengths), ("target", target_lengths)):
            if lengths != student[:1]:
                wanted = show(student[:1])
                raise ShapeMismatch(f"{what} lengths must be {wanted}, not {show(lengths)}")
        if student[2] <= max(self.blank, 1):
            raise ShapeMismatch(
                f"logits {show(student)} have no class beside a blank of {self.blank}"
            )
        check_mask(mask, student[:1])

    def rows(
        self, *, student: Tensor, target: Tensor, input_lengths: Tensor, target_lengths: Tensor
    ) -> Tensor:
        from torch import arange

        from kdgraph.losses._ctc import negative_log_likelihood

        input_lengths, target_lengths = input_lengths.long(), target_lengths.long()
        frames = arange(student.shape[1], device=student.device)
        inside = frames < input_lengths.unsqueeze(1)  # [B, F]
        log_q = student.where(inside.unsqueeze(2), 0).log_softmax(2)
        nll: Tensor
        nll, _ = negative_log_likelihood(
            log_q.transpose(0, 1).contiguous(), target, input_lengths, target_lengths, self.blank
        )
        return nll
