"""Channel correlation: the student's channels are related as the teacher's are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.losses._math import by_channel, unit
from kdgraph.losses._part import part
from kdgraph.losses._work import Work
from kdgraph.losses.base import MAPS, TOKENS, RowLoss, check_mask, same_features
from kdgraph.losses.spatial_correlation import sizes
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class ChannelCorrelation(RowLoss):
    """``||N(F_s F_s^T) - N(F_t F_t^T)||_F**2 / C**2``, N the L2 norm of each row.

    Inter-channel correlation (ICKD): Liu et al. 2021 (arXiv 2202.03680). ``F`` is [C, N] per
    sample: features are maps [B, C, H, W] or tokens [B, L, D] with equal numbers of channels; the
    numbers of pixels or tokens may differ. One row per sample.

    Variants: ``paper`` (the default) as above; ``code``, the authors' program, divides by C
    alone, and so is C times as large (torchdistill's ChSimLoss divides by C * B); ``cosine``
    normalises the channels before the product in place of the rows after it,
    ``||N(F_s) N(F_s)^T - N(F_t) N(F_t)^T||_F**2 / C**2``, and so ignores how strong a channel is.

    Forms: for ``cosine``, ``delta_sigma`` makes [N, N] products in the place of [C, C] matrices;
    it needs equal numbers of pixels or tokens.
    """

    use: Literal["channel_correlation"] = "channel_correlation"
    student: Ref
    teacher: Ref
    variant: Literal["paper", "code", "cosine"] = "paper"

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *TOKENS, *MAPS, positions=False)
        check_mask(mask, student[:1])

    def parts(self, *, student: Any, teacher: Any, **_: Any) -> dict[str, partial[Any]]:
        if self._form != "plain":
            return {}
        sides = {"student": student, "teacher": teacher}
        return {
            field: partial(correlations, x, self.variant == "cosine") for field, x in sides.items()
        }

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        if self._form == "delta_sigma":
            from kdgraph.losses._gram import gram_gap

            s, t = by_channel(student), by_channel(teacher)
            return gram_gap(s, t, across=True) / s.shape[1] ** 2
        square = (student - teacher).square()
        return square.sum(2).mean(1) if self.variant == "code" else square.mean((1, 2))

    def forms(self, *, student: Shape, teacher: Shape, **_: Shape) -> dict[str, Work]:
        from kdgraph.losses._gram import gram_work

        C, N = sizes(student)
        if self.variant != "cosine" or sizes(teacher)[1] != N:
            return {}
        across = gram_work(student[0], C, N, across=True)
        return {"plain": gram_work(student[0], C, N), "delta_sigma": across}

    def why_plain(self, *, student: Shape, teacher: Shape, **_: Shape) -> str | None:
        if self.variant != "cosine":
            return "its rows are normalised after the product, which has no cheaper side then"
        if sizes(student)[1] != sizes(teacher)[1]:
            return "the numbers of positions differ, so only channels can be compared"
        return None


@part
def correlations(x: Tensor, cosine: bool) -> Tensor:
    """[B, C, C]: products of channels of length 1, or rows of length 1 of the products."""
    channels = by_channel(x)
    if cosine:
        channels = unit(channels, 2)
        return channels @ channels.mT
    return unit(channels @ channels.mT, 2)
