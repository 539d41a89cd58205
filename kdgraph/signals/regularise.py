"""Regularise: a distribution moved towards the uniform one, or towards the label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, rank, show
from kdgraph.spec.steer import Schedule, Steered, Weight

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Regularise(Signal):
    """``(1 - by) p + by u``, with ``u = 1 / K`` for every class: probabilities to probabilities.

    The regularisation of a book of teachers' knowledge in BookKD (Zhu et al. 2023,
    10.1016/j.knosys.2023.110916), reconstructed from its abstract. ``p`` is [B, K], [B, L, K] or
    [B, K, H, W], from ``probabilities`` or the batch; ``by`` is a share from 0 to 1: a number, a
    schedule, or a signal, 0-dim or [B]. Gradients pass.

    Variants: ``uniform`` (the default); ``label`` mixes with the label's one-hot distribution,
    ``(1 - by) p + by onehot(y)``, for ``label`` [B], [B, L] or [B, H, W]. A label equal to
    ``ignore_index`` gives a row of zeros, which costs nothing and belongs behind a mask
    (``use: labelled``).
    """

    gives = "probabilities"

    use: Literal["regularise"] = "regularise"
    of: Ref
    by: Weight = 0.1
    variant: Literal["uniform", "label"] = "uniform"
    label: Ref | None = None
    ignore_index: int = -100

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.variant == "label") != (self.label is not None):
            raise PydanticCustomError(
                "regularise_label", "`variant: label` and the key 'label' go together"
            )
        if max(_values(self.by), default=0.0) > 1:
            raise PydanticCustomError("regularise_share", "'by' is a share, from 0 to 1")
        return self

    def shape(self, *, of: Shape, label: Shape | None = None) -> Shape:
        rank("regularise needs probabilities: they", of, 2, 3, 4)
        at = class_dim(of)
        if label not in (None, of[:at] + of[at + 1 :]):
            raise ShapeMismatch(f"labels {show(label)} do not fit to probabilities {show(of)}")
        return of

    def forward(self, *, of: Tensor, by: Tensor | float, label: Tensor | None = None) -> Tensor:
        from kdgraph.signals._module import lined_up, wide

        p = wide(of)
        dim = class_dim(tuple(p.shape))
        share = lined_up(by, p)
        if label is None:
            return (1 - share) * p + share / p.shape[dim]  # type: ignore[no-any-return]
        known = (label != self.ignore_index).unsqueeze(dim)
        index = label.long().unsqueeze(dim).where(known, 0)
        hard = p.new_zeros(p.shape).scatter_(dim, index, 1)
        return ((1 - share) * p + share * hard).where(known, 0)  # type: ignore[no-any-return]


def _values(by: Steered) -> tuple[float, ...]:
    """The numbers that a share takes; none that are known of a signal."""
    if isinstance(by, Schedule):
        return by.values()
    return (by,) if isinstance(by, float) else ()
