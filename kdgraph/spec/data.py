"""The ``data`` block: a data set by its name, and how training reads it. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.registry import Registry
from kdgraph.spec.entry import Entry, use_name
from kdgraph.spec.one_of import OneOf
from kdgraph.spec.transforms import TRANSFORMS, TransformEntry
from kdgraph.spec.types import DOCUMENTED, Count, Name, Positive, Seed, Strict, Whole


class Augment(Strict):
    """Random changes of the training images; none at evaluation."""

    model_config = DOCUMENTED

    entry: Name = "image"
    """The batch entry that holds the images, [B, C, H, W]."""

    shift: Whole = 0
    """Moves each image by up to this many pixels either way; what comes in is 0 (black)."""

    flip: bool = False
    """Mirrors each image left to right with probability one half."""

    labels: Name | None = None
    """The batch entry of label maps, [B, H, W], that are moved and mirrored with the images."""

    ignore_index: int = -100
    """What comes into label maps: the label of no class."""


class Normalise(Strict):
    """``(x - mean) / std`` for each channel, after images were scaled to 0 .. 1 and augmented."""

    model_config = DOCUMENTED

    entry: Name = "image"
    """The batch entry that is normalised, [B, C, H, W]."""

    mean: Annotated[tuple[float, ...], Field(strict=False, min_length=1)]
    """One value for each channel."""

    std: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]
    """One value for each channel."""

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.mean) != len(self.std):
            raise PydanticCustomError(
                "normalise_length", "'mean' and 'std' must have one value for each channel"
            )
        return self


class DataEntry(Entry):
    """A data set, and how training reads it. Its columns have the names of batch entries."""

    model_config = DOCUMENTED

    batch_size: Count = 64
    """Rows in a batch. A last, incomplete batch of training is left out."""

    limit: Count | None = None
    """Keeps only this many training rows, drawn once, alike from every class where known."""

    shots: Count | None = None
    """Keeps only this many training rows of each class, drawn once; after ``limit``. Teachers that
    ``train.teacher`` trains still see all that ``limit`` leaves."""

    select_classes: Annotated[tuple[Whole, ...], Field(strict=False, min_length=1)] | None = None
    """Keeps only the rows of these classes and numbers them from 0 in this order; all parts."""

    split_seed: Seed = 0
    """Draws what ``limit`` and ``shots`` keep and, for a set without one, the validation part."""

    augment: Augment | None = None
    """Random changes of the training images."""

    transforms: Annotated[
        tuple[Annotated[TransformEntry, OneOf(TRANSFORMS)], ...], Field(strict=False)
    ] = ()
    """Changes of training batches, in this order, after ``augment``; views come before it."""

    normalise: Normalise | None = None
    """Left out: what the data set states for itself, if anything."""

    workers: Whole = 0
    """Processes that load batches; 0 loads in the training process, best for data in memory."""

    @model_validator(mode="after")
    def _distinct_classes(self) -> Self:
        chosen = self.select_classes or ()
        if len(set(chosen)) < len(chosen):
            twice = next(c for c in chosen if chosen.count(c) > 1)
            raise PydanticCustomError("repeated_class", "class {c} is listed twice", {"c": twice})
        return self


DATA: Registry[type[Any]] = Registry("data set", "kdgraph.train.data")
D = TypeVar("D", bound=DataEntry)


def register_data(cls: type[D]) -> type[D]:
    """Makes a data set known under its ``use`` name."""
    return DATA.add(use_name(cls), cls)


DataSpec = Annotated[DataEntry, OneOf(DATA)]
