"""What a loss is: a pure function from tensors to one number, with a rule for their shapes.

Fixed parameters are read from ``self``; tensors (``Ref`` fields) and steered numbers
(``Steer`` fields) arrive as arguments of the same name, because they may change each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.spec.entry import LossEntry, Ref
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, show

if TYPE_CHECKING:
    from torch import Tensor, nn


class Loss(LossEntry):
    """A loss over whole tensors (a relation, a correlation): ``forward`` returns a 0-dim tensor.

    Inputs come as float32 or float64, never half precision, with autocast off.
    """

    def shapes(self, **shapes: Shape) -> None:
        """Raises ``ShapeMismatch`` where the tensors do not fit; given by field name."""
        raise NotImplementedError  # every registered loss defines it

    def forward(self, **inputs: Tensor) -> Tensor:
        """The unweighted value, a 0-dim tensor."""
        raise NotImplementedError  # every registered loss defines it

    def module(self) -> nn.Module:
        """The module that sits in the graph; a loss with state of its own overrides this."""
        from kdgraph.losses._module import LossModule

        return LossModule(self)


class RowLoss(Loss):
    """A loss with one value per row (sample, token, pixel), reduced in one explicit way.

    Gains a ``mask`` ([B] or the shape of the rows; false or 0 leaves a row out of the sum and
    of the count) and a per-sample ``weight`` (a signal [B]). With no row left the value is 0.
    """

    mask: Ref | None = None
    reduction: Literal["mean", "sum"] = "mean"

    def rows(self, **inputs: Tensor) -> Tensor:
        """One unweighted value per row, [B] or [B, ...]."""
        raise NotImplementedError  # every registered row loss defines it

    def counted(self, **inputs: Tensor) -> Tensor | None:
        """Which rows count by the loss's own rule (an ignored label, say); None means all."""
        return None

    def forward(self, *, mask: Tensor | None = None, **inputs: Tensor) -> Tensor:
        return self.reduce(self.rows(**inputs), self.keep(mask, **inputs))

    def keep(self, mask: Tensor | None, **inputs: Tensor) -> Tensor | None:
        """The rows that count: the user's mask and the loss's own rule together."""
        own = self.counted(**inputs)
        if mask is None or own is None:
            return mask if own is None else own
        return own * _over_rows(mask, own)

    def reduce(
        self, rows: Tensor, keep: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """Sum, or mean over the rows kept, of ``weight * rows``."""
        if weight is not None:
            rows = rows * _over_rows(weight.to(rows.dtype), rows)
        if keep is None:
            return rows.mean() if self.reduction == "mean" else rows.sum()
        keep = _over_rows(keep, rows).expand_as(rows).to(rows.dtype)
        # where, not a product: a row left out may hold inf or nan
        total = rows.where(keep != 0, 0).mul(keep).sum()
        return total / keep.sum().clamp_min(1e-12) if self.reduction == "mean" else total


def _over_rows(value: Tensor, rows: Tensor) -> Tensor:
    """Lines a per-sample or per-row tensor up with ``rows`` from the left."""
    return value.reshape(*value.shape, *([1] * (rows.dim() - value.dim())))


def per_sample(value: Tensor | float, like: Tensor) -> Tensor | float:
    """A steered number against ``like`` [B, ...]: a per-sample [B] gains trailing dimensions."""
    if isinstance(value, int | float) or value.dim() == 0:
        return value
    return _over_rows(value, like)


def same_classes(student: Shape, teacher: Shape) -> None:
    """Requires logits of equal shape.

    Raises:
        ShapeMismatch: suggests ``select_classes`` for another number of classes and
            ``resize`` for another resolution.
    """
    if student == teacher:
        return
    both = f"student logits {show(student)} and teacher logits {show(teacher)}"
    if len(student) == len(teacher) and student[:1] == teacher[:1]:
        at = class_dim(student)
        if student[at] != teacher[at]:
            raise ShapeMismatch(
                f"{both} differ in their number of classes", adapters=("signal select_classes",)
            )
        raise ShapeMismatch(f"{both} differ in size", adapters=("resize",))
    raise ShapeMismatch(f"{both} must have equal shapes")
