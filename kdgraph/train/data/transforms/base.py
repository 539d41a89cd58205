"""What a transform of training batches is."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal, Self

from kdgraph.errors import DataError, near
from kdgraph.spec.transforms import TransformEntry
from kdgraph.spec.types import Name

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from kdgraph.train.data._split import Split

Batch = dict[str, "Tensor"]
Scope = Literal["row", "none", "mix", "batch"]


class Transform(TransformEntry):
    """Changes a training batch, after ``augment`` and before ``normalise``.

    Images are float [B, C, H, W] from 0 to 1. The generator depends on the seed, the epoch, the
    number of the batch and the place of the transform in the list, and on nothing else; all
    that is random comes from it, so that a run taken up in the middle sees what it would have.
    """

    def reads(self) -> tuple[str, ...]:
        """The columns that must be there."""
        raise NotImplementedError  # every registered transform defines it

    def adds(self) -> tuple[str, ...]:
        """The columns that are there afterwards and were not before."""
        return ()

    def views(self) -> dict[str, str]:
        """Added columns that are views of another, by the one they are taken from.

        What has any runs before ``augment``, which then draws for each view by itself, and
        ``normalise`` treats each view as it treats the column that it is of.
        """
        return {}

    def moves(self) -> tuple[str, ...]:
        """Columns of images whose pixels it puts elsewhere, so that label maps no longer fit."""
        return ()

    def scope(self) -> Scope:
        """What a changed row depends on, which decides whether a book can hold values of it.

        ``row``: that row and its draws alone. ``none``: nothing; the same is added to every batch.
        ``mix``: rows are blended, and ``along`` blends others alike. ``batch``: anything else.
        """
        return "batch"

    def columns(self, have: tuple[str, ...]) -> tuple[str, ...]:
        """What it adds to the columns ``have``.

        Raises:
            DataError: KD711 when it reads a column that is not there, or adds one that is.
        """
        for name in self.reads():
            if name not in have:
                help = near(name, have) or f"there are {', '.join(have)}"
                raise DataError.of("KD711", f"{self.use} reads {name!r}, a column that is not "
                                   "there", help=help)  # fmt: skip
        for name in self.adds():
            if name in have:
                raise DataError.of("KD711", f"{self.use} would add {name!r}, which is there")
        return self.adds()

    def fitted(self, train: Split) -> Self:
        """The same transform, with what it takes from the training data as a whole."""
        return self

    def apply(self, batch: Batch, chance: Generator) -> Batch:
        """A new batch; the tensors of ``batch`` stay as they are."""
        raise NotImplementedError  # every registered transform defines it

    def along(self, batch: Batch, chance: Generator, others: Collection[str]) -> Batch:
        """``apply``, which blends the columns ``others`` as it blends its own."""
        raise NotImplementedError  # every transform of scope "mix" defines it


class ImageTransform(Transform):
    """Changes the images of one column, each by itself, and nothing else."""

    entry: Name = "image"
    """The column of the images, [B, C, H, W]."""

    def reads(self) -> tuple[str, ...]:
        return (self.entry,)

    def scope(self) -> Scope:
        return "row"

    def apply(self, batch: Batch, chance: Generator) -> Batch:
        return {**batch, self.entry: self.image(batch[self.entry], chance)}

    def image(self, x: Tensor, chance: Generator) -> Tensor:
        """What becomes of images [B, C, H, W] from 0 to 1."""
        raise NotImplementedError  # every registered transform of images defines it
