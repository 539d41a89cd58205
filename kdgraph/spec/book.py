"""The ``book`` block: what is kept of the teachers' side on disk, and for which views. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from kdgraph.spec.entry import Ref
from kdgraph.spec.types import DOCUMENTED, Count, Seed, Strict


class StoreSpec(Strict):
    """How one value is kept."""

    model_config = DOCUMENTED

    dtype: Literal["float32", "float16", "int8"] = "float32"
    """``float32`` is exact; ``float16`` is half of it and ``int8``, with scales, a quarter."""

    top_k: Count | None = None
    """Logits alone: keeps the log-probabilities of so many classes, and the mass of the rest.

    What reads them gets logits again, with that mass spread evenly over the other classes.
    """

    @model_validator(mode="after")
    def _values_of_top_k(self) -> StoreSpec:
        if self.top_k is not None and self.dtype == "int8":
            raise PydanticCustomError(
                "book_top_k", "'top_k' keeps log-probabilities as float32 or float16, not as int8"
            )
        return self


class BookSpec(Strict):
    """A book: values of the teachers' side, written once and read instead of the teachers.

    With this block each training row has a number, its ``id``, and what is random in ``augment``
    and ``transforms`` depends on ``seed``, the view and the id alone, with a book and without
    one: epoch e shows every row in view ``e % views``.
    """

    model_config = DOCUMENTED

    store: dict[Ref, StoreSpec] = {}
    """Signals, and taps of frozen models, that are kept.

    Left out: whatever edges and other signals read of what depends on the batch and on constant
    models alone, as dense float32. Teachers that are read elsewhere, too, stay in training.
    """

    views: Count | None = None
    """How many random views of each row there are; needed where something is random, else 1."""

    seed: Seed = 0
    """Draws the views."""

    linear_mix: bool = False
    """Says that values of mixed rows are meant to be the mix of their values (MixUp)."""
