"""What row losses that read class labels beside logits share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdgraph.losses.base import RowLoss, check_mask, without_channels
from kdgraph.spec.shapes import Shape, ShapeMismatch, show

if TYPE_CHECKING:
    from torch import Tensor


class LabelledRows(RowLoss):
    """A row loss with ``target`` [B], [B, L] or [B, H, W]; ``ignore_index`` does not count."""

    ignore_index: int = -100

    def fit(self, student: Shape, target: Shape, mask: Shape | None) -> None:
        """Requires one label a row, and a mask that fits the rows."""
        rows = without_channels(student)
        if target != rows:
            raise ShapeMismatch(
                f"labels {show(target)} do not fit the rows {show(rows)} of the logits "
                f"{show(student)}"
            )
        check_mask(mask, rows)

    def counted(self, *, target: Tensor, **_: Any) -> Tensor:
        """The rows that have a label."""
        return target != self.ignore_index

    def classes(self, target: Tensor) -> Tensor:
        """Indices that can be looked up: ignored labels, which may lie outside, become 0."""
        return target.long().where(target != self.ignore_index, 0)
