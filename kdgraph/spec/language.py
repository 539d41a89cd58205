"""The language: every key of a spec, as one tree of frozen models.

The JSON Schema for editors, the checks and the typed ``Spec`` all come from these classes.
Vocabulary entries are found through their registries, by package name, so that this layer
imports nothing above it and never torch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator
from pydantic_core import PydanticCustomError

from kdgraph.errors import Span
from kdgraph.spec.adapted import LoraSpec, StartSpec
from kdgraph.spec.book import BookSpec
from kdgraph.spec.data import DataSpec
from kdgraph.spec.entry import (
    ADAPTERS,
    LOSSES,
    SIGNALS,
    AdapterEntry,
    LossEntry,
    Ref,
    SignalEntry,
)
from kdgraph.spec.one_of import OneOf
from kdgraph.spec.stages import StageSpec
from kdgraph.spec.training import TrainSpec
from kdgraph.spec.tree import Places
from kdgraph.spec.types import Count, Form, Name, Strict

DType = Literal[
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "uint8", "bool"
]


_LARGEST_ROW = 2**30  # numbers of a batch entry where its free sizes are 1


class BatchEntry(Strict):
    """One named tensor of a training batch; a letter in ``shape`` is a free size."""

    shape: Annotated[
        tuple[Count | Annotated[str, Form("[A-Z][A-Za-z0-9]*", "a size name such as B")], ...],
        Field(min_length=1, strict=False),
    ]
    dtype: DType = "float32"
    classes: Count | None = None

    @field_validator("shape")
    @classmethod
    def _bounded(cls, shape: tuple[int | str, ...]) -> tuple[int | str, ...]:
        count = math.prod(size for size in shape if isinstance(size, int))
        if count > _LARGEST_ROW:
            told = {"count": f"{count:,}", "most": f"{_LARGEST_ROW:,}"}
            raise PydanticCustomError(
                "too_many_numbers", "{count} numbers are more than the {most} of a row", told
            )
        return shape


class ModelSpec(Strict):
    """A network: where it comes from, what it reads, and the taps inside it.

    ``precision`` is that of a frozen model's arithmetic (bf16, fp16) or of the weights of its
    linear layers (int8); left out: as it is. Its taps are float32 in any case.

    ``start_from`` copies weights of another model into a trained one, layers by a map of their
    numbers. ``lora`` trains low-rank adapters beside its linear layers, and nothing else of it.

    ``dropout: true`` keeps on, in a frozen model, what is random in training (dropout, stochastic
    depth), while its statistics stand still. ``batch_statistics: true`` has the batch norms of a
    frozen model use the mean and the variance of each batch, as in training, and not the running
    ones, which stand still; what it gives for a sample then depends on the others of the batch.
    Several calls of it, by ``same_as`` or ``passes``, have one mean and variance over all of them.
    ``snapshot_of`` makes a frozen copy of a trained model, in eval mode, which
    ``DistillModule.snapshot`` brings up to date.

    ``same_as: NAME`` makes it another call of the network of that model, with an ``input`` (left
    out: the same) and taps of its own and nothing else. All calls of one network run as one, on
    their batches put together along the first dimension: batch norm in train mode sees all of
    them, dropout draws anew for each row. Calls of a frozen model on equal inputs are one call
    where nothing in it is random by ``dropout`` or ``passes``.

    ``capture`` is the way to make a graph of it, in the place of the first that works: ``ports``
    leaves it whole, so that what wraps its modules (FSDP, activation checkpointing) is called.

    ``passes: K`` repeats a call K times in that one run, which says something where dropout is
    on. A tap of it is then K tensors: a list, such as ``of`` of a signal, takes all of them.
    """

    source: Annotated[str, Form("[a-z_]+/.+", "SOURCE/NAME, such as timm/resnet18")] | None = None
    args: dict[str, Any] = {}
    weights: str | None = None
    start_from: StartSpec | None = None
    lora: LoraSpec | None = None
    input: Name | dict[str, Name] | None = None
    trainable: bool | None = None
    precision: Literal["bf16", "fp16", "int8"] | None = None
    dropout: bool = False
    batch_statistics: bool = False
    snapshot_of: Name | None = None
    same_as: Name | None = None
    passes: Annotated[int, Field(ge=2, le=1000)] | None = None
    capture: Literal["auto", "fx", "export", "ports"] = "auto"
    taps: dict[Name, str] = {}


class LinkSpec(Strict):
    """A student tap paired with a teacher tap; the adapter makes the student side fit."""

    student: Ref
    teacher: Ref
    adapter: Annotated[AdapterEntry, OneOf(ADAPTERS, short=True, many="chain")] = Field(
        default="auto", validate_default=True
    )


class Spec(Strict):
    """A whole, checked spec. ``span`` tells where each value was written."""

    kdgraph: Literal[1]
    name: str
    description: str | None = None
    batch: dict[Name, BatchEntry] = Field(min_length=1)
    models: dict[Name, ModelSpec] = Field(min_length=1)
    links: dict[Name, LinkSpec] = {}
    signals: dict[Name, Annotated[SignalEntry, OneOf(SIGNALS)]] = {}
    losses: dict[Name, Annotated[LossEntry, OneOf(LOSSES)]] = Field(min_length=1)
    stages: tuple[StageSpec, ...] = Field((), strict=False)
    book: BookSpec | None = None
    data: DataSpec | None = None
    train: TrainSpec | None = None

    _file: str = PrivateAttr("<spec>")
    _leg: str | None = PrivateAttr(None)
    _batch_from: str = PrivateAttr("data.batch_size")
    _booked: frozenset[str] = PrivateAttr(frozenset())
    _learning: frozenset[str] = PrivateAttr(frozenset())
    _moving: frozenset[str] = PrivateAttr(frozenset())
    _origins: dict[str, ModelSpec] = PrivateAttr(default_factory=dict)
    _places: Places = PrivateAttr(default_factory=lambda: Places({}, {}))

    def span(self, *keys: str | int) -> Span | None:
        """Where the value under ``keys`` was written, or its nearest written parent.

        The place of a mapping or a list is the key it stands under.
        """
        return self._places.value(keys)

    def key_span(self, *keys: str | int) -> Span | None:
        """Where the last of ``keys`` was written as a key, or the nearest written parent."""
        return self._places.key(keys)

    @property
    def folder(self) -> Path:
        """The folder that relative paths of this spec start from."""
        return Path(self._file).parent

    @property
    def leg(self) -> str | None:
        """The stage, or phase as ``STAGE.PHASE``, that this is the spec of; None of a whole one."""
        return self._leg

    @property
    def batch_from(self) -> str:
        """In words, what says how many rows a batch of training has."""
        return self._batch_from

    @property
    def booked(self) -> frozenset[str]:
        """The batch entries whose values a book holds."""
        return self._booked

    def written(self, model: str) -> ModelSpec:
        """A model, also one that another starts from where the spec has no other use for it."""
        return self.models.get(model) or self._origins[model]

    def is_trainable(self, model: str) -> bool:
        """Whether a model learns: as written, else only the one named ``student``."""
        network = self.network(model)
        written = self.models[network].trainable if network in self.models else None
        return network == "student" if written is None else written

    def network(self, model: str) -> str:
        """The model whose network a model calls: itself, unless it is ``same_as`` another."""
        return self.models[model].same_as or model

    @property
    def networks(self) -> list[str]:
        """The models that have a network of their own: all but those ``same_as`` another."""
        return [name for name, model in self.models.items() if model.same_as is None]

    def is_learning(self, model: str) -> bool:
        """Whether a model is trained, now or in another stage."""
        return self.is_trainable(model) or self.network(model) in self._learning

    def is_moving(self, model: str) -> bool:
        """Whether a model is trained in some stage, or changed by an action."""
        return self.is_learning(model) or self.network(model) in self._moving

    def is_acted_on(self, model: str) -> bool:
        """Whether an action changes a model, in this stage or another."""
        return self.network(model) in self._moving

    def is_constant(self, model: str) -> bool:
        """Whether the weights of a model never change: it is no snapshot, and not moving."""
        return self.models[self.network(model)].snapshot_of is None and not self.is_moving(model)

    def inputs(self, model: str) -> dict[str, str] | str:
        """What ``forward`` of a model reads: argument to batch entry, or the only entry's name.

        A snapshot, or another call of a network, reads what that model reads, unless it says
        otherwise.
        """
        written = self.models[model].input
        if written is None and self.network(model) in self.models:
            model = self.network(model)
            written = self.models[model].input
        copied = self.models[model].snapshot_of
        if written is None and copied in self.models and copied != model:
            written = self.models[copied].input
        return next(iter(self.batch)) if written is None else written
