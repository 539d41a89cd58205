"""CSC: pixels and channels of the student are related as those of the teacher are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.losses._math import by_channel
from kdgraph.losses._work import Work
from kdgraph.losses.base import MAPS, TOKENS, RowLoss, check_mask, same_features
from kdgraph.losses.spatial_correlation import sizes
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, rank, show
from kdgraph.spec.types import Count, NonNegative

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@register_loss
class CSC(RowLoss):
    """``spatial * ||A_s - A_t||_F**2 / N**2 + channel * ||G_s - G_t||_F**2 / C**2``.

    Channel and spatial correlation: Park, Heo 2020 (doi 10.3390/s20164616), reconstructed from
    the abstract, since no code is public. A [N, N] holds the cosines between pixels or tokens
    (the loss ``spatial_correlation``), G [C, C] those between channels (``channel_correlation``,
    variant ``cosine``). Features are maps [B, C, H, W] or tokens [B, L, D] of equal shape, after
    an adapter where needed. One row per sample.

    Variants: ``separable`` (the default) as above; ``joint`` cuts each channel of a map into
    ``patches`` x ``patches`` pieces and has one matrix of the cosines between all pieces of all
    channels, ``||J_s - J_t||_F**2 / (C * patches**2)**2``; of one piece a channel, J is G.

    ``pool_to: [h, w]`` averages both maps to that size first, which bounds A to [h * w, h * w].

    Forms: ``delta_sigma`` takes each of the matrices on its cheaper side, [C, C] or [N, N].
    """

    use: Literal["csc"] = "csc"
    student: Ref
    teacher: Ref
    variant: Literal["separable", "joint"] = "separable"
    spatial: NonNegative = 1.0
    channel: NonNegative = 1.0
    patches: Count = 1
    pool_to: Annotated[tuple[Count, Count], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _one_variant(self) -> Self:
        others = ("spatial", "channel") if self.variant == "joint" else ("patches",)
        for key in others:
            if getattr(self, key) == type(self).model_fields[key].default:
                continue
            raise PydanticCustomError(
                "csc_variant",
                "'{key}' has no effect on 'variant: {variant}'; leave it out",
                {"key": key, "variant": self.variant},
            )
        return self

    def shapes(self, *, student: Shape, teacher: Shape, mask: Shape | None = None) -> None:
        same_features(student, teacher, *TOKENS, *MAPS)
        check_mask(mask, student[:1])
        if self.pool_to is not None:
            rank("maps [B, C, H, W] are averaged to a size: the student", student, 4)
            if student[2] < self.pool_to[0] or student[3] < self.pool_to[1]:
                h, w = self.pool_to
                raise ShapeMismatch(f"maps {show(student)} are smaller than {h} x {w}")
        if self.patches > 1:
            rank("patches are cut from maps [B, C, H, W]: the student", student, 4)
            pooled, P = self._pooled(student), self.patches
            if pooled[2] % P or pooled[3] % P:
                raise ShapeMismatch(f"maps {show(pooled)} cannot be cut into {P} x {P} patches")

    def rows(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        from kdgraph.losses._gram import cheaper_across, gram_gap

        if self.pool_to is not None:
            from torch.nn.functional import adaptive_avg_pool2d

            student, teacher = (adaptive_avg_pool2d(x, self.pool_to) for x in (student, teacher))
        total = student.new_zeros(len(student))
        for gain, vectors in self._terms():
            s, t = vectors(student), vectors(teacher)
            across = self._form == "delta_sigma" and cheaper_across(*s.shape[1:])
            total = total + gain / s.shape[1] ** 2 * gram_gap(s, t, across=across)
        return total

    def forms(self, *, student: Shape, **_: Shape) -> dict[str, Work]:
        from kdgraph.losses._gram import cheaper_across, gram_work

        C, N = sizes(self._pooled(student))
        P = self.patches**2
        rows = [(N, C)] * bool(self.spatial) + [(C, N)] * bool(self.channel)
        if self.variant == "joint":
            rows = [(C * P, N // P)]
        plain = [gram_work(student[0], *r) for r in rows]
        best = [gram_work(student[0], *r, across=cheaper_across(*r)) for r in rows]
        none = Work(0, 0)
        return {"plain": sum(plain, none), "delta_sigma": sum(best, none)}

    def _terms(self) -> list[tuple[float, Callable[[Tensor], Tensor]]]:
        """Each matrix: its gain, and the vectors [B, M, K] whose cosines it holds."""
        if self.variant == "joint":
            return [(1.0, self._pieces)]
        both: list[tuple[float, Callable[[Tensor], Tensor]]]
        both = [(self.spatial, lambda x: by_channel(x).mT), (self.channel, by_channel)]
        return [term for term in both if term[0]]

    def _pieces(self, x: Tensor) -> Tensor:
        """[B, C * P * P, N / P / P]: channels, or patches of them."""
        if self.patches == 1:
            return by_channel(x)
        (B, C, H, W), P = x.shape, self.patches
        cut = x.reshape(B, C, P, H // P, P, W // P).transpose(3, 4)
        return cut.reshape(B, C * P * P, -1)

    def _pooled(self, shape: Shape) -> Shape:
        """The shape of maps as they are compared."""
        return shape if self.pool_to is None else (*shape[:2], *self.pool_to)
