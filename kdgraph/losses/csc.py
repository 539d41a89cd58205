"""CSC: pixels and channels of the student are related as those of the teacher are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.losses._math import by_channel
from kdgraph.losses._work import Work
from kdgraph.losses.base import MAPS, TOKENS, RowLoss, check_mask, same_features
from kdgraph.losses.spatial_correlation import sizes
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, rank, show
from kdgraph.spec.types import Count, NonNegative

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class CSC(RowLoss):
    """``spatial * ||A_s - A_t||_F**2 / N**2 + channel * ||G_s - G_t||_F**2 / C**2``.

    Channel and spatial correlation: Park, Heo 2020 (doi 10.3390/s20164616), reconstructed from
    the abstract, since no code is public. A [N, N] holds the cosines between pixels or tokens
    (the loss ``spatial_correlation``), G [C, C] those between channels (``channel_correlation``,
    variant ``cosine``). Features are maps [B, C, H, W] or tokens [B, L, D] of equal shape, after
    an adapter where needed. One row per sample.

    Variant: with ``patches: P`` each channel of a map is cut into P x P patches, and G holds the
    cosines between all C * P * P of them, so that it knows of places too; ``spatial: 0`` with
    that is the joint form.

    Forms: ``delta_sigma`` takes each of the two on its cheaper side, [C, C] or [N, N].
    """

    use: Literal["csc"] = "csc"
    student: Ref
    teacher: Ref
    spatial: NonNegative = 1.0
    channel: NonNegative = 1.0
    patches: Count = 1

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *TOKENS, *MAPS)
        check_mask(mask, student[:1])
        if self.patches > 1:
            rank("patches are cut from maps [B, C, H, W]: the student", student, 4)
            if student[2] % self.patches or student[3] % self.patches:
                P = self.patches
                raise ShapeMismatch(f"maps {show(student)} cannot be cut into {P} x {P} patches")

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        from kdgraph.losses._gram import cheaper_across, gram_gap

        total = student.new_zeros(len(student))
        if self.spatial:
            s, t = by_channel(student).mT, by_channel(teacher).mT
            across = self._form == "delta_sigma" and cheaper_across(*s.shape[1:])
            total = total + self.spatial / s.shape[1] ** 2 * gram_gap(s, t, across=across)
        if self.channel:
            s, t = self._channels(student), self._channels(teacher)
            across = self._form == "delta_sigma" and cheaper_across(*s.shape[1:])
            total = total + self.channel / s.shape[1] ** 2 * gram_gap(s, t, across=across)
        return total

    def forms(self, *, student: Shape, **_: Shape) -> dict[str, Work]:
        from kdgraph.losses._gram import cheaper_across, gram_work

        C, N = sizes(student)
        P = self.patches**2
        rows = [(N, C)] * bool(self.spatial) + [(C * P, N // P)] * bool(self.channel)
        plain = [gram_work(student[0], *r) for r in rows]
        best = [gram_work(student[0], *r, across=cheaper_across(*r)) for r in rows]
        none = Work(0, 0)
        return {"plain": sum(plain, none), "delta_sigma": sum(best, none)}

    def _channels(self, x: Tensor) -> Tensor:
        """[B, C * P * P, N / P / P]: channels, or patches of them."""
        if self.patches == 1:
            return by_channel(x)
        (B, C, H, W), P = x.shape, self.patches
        cut = x.reshape(B, C, P, H // P, P, W // P).transpose(3, 4)
        return cut.reshape(B, C * P * P, -1)
