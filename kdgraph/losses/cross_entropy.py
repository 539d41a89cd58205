"""Cross entropy with labels: class indices or soft labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.losses.base import (
    MAPS,
    TOKENS,
    VECTORS,
    RowLoss,
    check_mask,
    without_channels,
)
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, rank, show
from kdgraph.spec.types import Fraction, NonNegative

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from kdgraph.losses._closed import Logits


@register_loss
class CrossEntropy(RowLoss):
    """``-sum_k t_k w_k log softmax(z)_k``, with ``t = (1 - smoothing) label + smoothing / K``.

    Label smoothing: Szegedy et al. 2015 (arXiv 1512.00567); the numbers are those of torch's
    ``F.cross_entropy``. Logits are [B, K], [B, L, K] or maps [B, K, H, W]; labels are class
    indices [B], [B, L] or [B, H, W], or soft labels (probabilities) of the shape of the logits.

    ``class_weights`` gives one weight per class; ``balance`` gives them as a tensor [K], from a
    batch entry or a signal, where they are counted from data. Labels equal to ``ignore_index``
    do not count. ``reduction: mean`` (the default) divides, as torch does, by the sum of the
    weights of the labels that count, and for soft labels by the number of rows.

    A class whose logit is -inf is impossible: smoothing spreads over the others alone.
    """

    use: Literal["cross_entropy"] = "cross_entropy"
    student: Ref
    target: Ref
    smoothing: Fraction = 0.0
    class_weights: Annotated[tuple[NonNegative, ...], Field(strict=False, min_length=1)] | None = (
        None
    )
    balance: Ref | None = None
    ignore_index: int = -100

    @model_validator(mode="after")
    def _one_kind_of_weights(self) -> Self:
        if self.class_weights is not None and self.balance is not None:
            raise PydanticCustomError(
                "weights_twice", "give either 'class_weights' or 'balance', not both"
            )
        return self

    def shapes(
        self,
        *,
        student: Shape,
        target: Shape,
        mask: Shape | None = None,
        balance: Shape | None = None,
    ) -> None:
        rank("student logits", student, *VECTORS, *TOKENS, *MAPS)
        rows, classes = without_channels(student), student[class_dim(student)]
        if target not in (rows, student):
            raise ShapeMismatch(
                f"labels {show(target)} fit neither as class indices {show(rows)} nor as soft "
                f"labels {show(student)} to the student logits {show(student)}"
            )
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ShapeMismatch(
                f"{len(self.class_weights)} class weights do not fit {classes} classes"
            )
        if balance not in (None, (classes,)):
            raise ShapeMismatch(f"balance {show(balance)} has not one weight for {classes} classes")
        check_mask(mask, rows)

    def rows(self, *, student: Tensor, target: Tensor, balance: Tensor | None = None) -> Tensor:
        dim = class_dim(tuple(student.shape))
        log_q = student.log_softmax(dim)
        cost = -log_q
        weights = self._weights(student, balance)
        if weights is not None:
            shape = [1] * student.dim()
            shape[dim] = -1
            weights = weights.reshape(shape)
            cost = (cost * weights).where(weights > 0, 0)  # where: an impossible class costs inf
        if target.dim() == student.dim():
            label = target.to(student.dtype)
            hard = (label * cost).where(label != 0, 0).sum(dim)
        else:
            hard = cost.gather(dim, self._classes(target).unsqueeze(dim)).squeeze(dim)
        if self.smoothing == 0:
            return hard
        possible = log_q > -float("inf")
        even = cost.where(possible, 0).sum(dim) / possible.sum(dim)
        if self.smoothing == 1:
            return even  # the label counts nothing, not even where it is impossible
        return (1 - self.smoothing) * hard + self.smoothing * even

    def closed_form(
        self, *, student: Logits, target: Tensor, balance: Tensor | None = None
    ) -> tuple[Tensor, Callable[[Tensor], None]]:
        q = student.at(1.0)
        prob = q.prob
        soft = target.dim() == len(student.shape) + 1
        weights = self._weights(student.z, balance)
        if not soft and self.smoothing == 0 and weights is None:
            label = self._classes(target).reshape(-1, 1)

            def pull(grad: Tensor) -> None:
                q.add(prob, grad)
                student.add_at(label, -grad)

            return -q.log.gather(1, label).squeeze(1), pull
        share = self._shares(student, target, soft)
        share = share if weights is None else share * weights
        whole = share.sum(1)

        def pull_all(grad: Tensor) -> None:
            q.add(prob, grad * whole)
            q.add(share, -grad)

        return -(share * q.log).sum(1), pull_all

    def _shares(self, student: Logits, target: Tensor, soft: bool) -> Tensor:
        """The smoothed labels, [N, K]."""
        if soft:
            share = student.in_rows(target.to(student.z.dtype)) * (1 - self.smoothing)
        else:
            label = self._classes(target).reshape(-1, 1)
            share = student.z.new_zeros(student.z.shape).scatter_(1, label, 1 - self.smoothing)
        return share + self.smoothing / student.z.shape[1]

    def counted(
        self, *, student: Tensor, target: Tensor, balance: Tensor | None = None
    ) -> Tensor | None:
        return None if target.dim() == student.dim() else target != self.ignore_index

    def share(
        self, *, student: Tensor, target: Tensor, balance: Tensor | None = None
    ) -> Tensor | None:
        weights = self._weights(student, balance)
        if weights is None or target.dim() == student.dim():
            return None
        return weights[self._classes(target)]

    def _weights(self, student: Tensor, balance: Tensor | None) -> Tensor | None:
        """One constant per class, [K]; None where all weigh 1."""
        if balance is not None:
            return balance.detach().to(student.dtype)
        return None if self.class_weights is None else student.new_tensor(self.class_weights)

    def _classes(self, target: Tensor) -> Tensor:
        """Indices that can be looked up: ignored labels, which may lie outside, become 0."""
        return target.long().where(target != self.ignore_index, 0)
