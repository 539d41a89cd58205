"""Class weights: how much each class counts, from how often it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field

from kdgraph.errors import DataError
from kdgraph.spec.transforms import register_transform
from kdgraph.spec.types import Name, NonNegative
from kdgraph.train.data.transforms.base import Batch, Scope, Transform

if TYPE_CHECKING:
    from torch import Generator

    from kdgraph.train.data._split import Split


@register_transform
class ClassWeights(Transform):
    """``w_c = N / (K n_c)``: adds the weight of each of K classes, [K], to every batch.

    N rows of training data, n_c of class c: rare classes count more, and the weight of a row is
    1 in the mean. ``cross_entropy`` takes it as ``balance``. Counted are the rows that training
    uses, after ``limit`` and ``select_classes``, and never those of validation or test. A step
    that is compiled without ``kdgraph train`` gets the weights as any other batch entry.
    """

    use: Literal["class_weights"] = "class_weights"

    name: Name = "class_weights"
    """What the added column is called."""

    weights: Annotated[tuple[NonNegative, ...], Field(strict=False, min_length=1)] | None = None
    """One number for each class; left out: counted."""

    def reads(self) -> tuple[str, ...]:
        return ("label",)

    def adds(self) -> tuple[str, ...]:
        return (self.name,)

    def scope(self) -> Scope:
        return "none"

    def fitted(self, train: Split) -> Self:
        if self.weights is not None:
            return self
        labels = train.labels()
        if labels is None or labels.dim() != 1 or labels.is_floating_point():
            raise DataError.of(
                "KD719",
                "class_weights cannot count classes: the data set has no column `label` of class "
                "numbers that is at hand without reading every row",
                help="write `weights`, one number for each class",
            )
        counts = labels.long().bincount().tolist()
        if 0 in counts:
            raise DataError.of("KD719", f"the training part has no row of class {counts.index(0)}")
        weights = tuple(len(labels) / (len(counts) * count) for count in counts)
        return self.model_copy(update={"weights": weights})

    def apply(self, batch: Batch, chance: Generator) -> Batch:
        import torch

        return {**batch, self.name: torch.tensor(self.weights)}
