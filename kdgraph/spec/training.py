"""The ``data`` and ``train`` blocks: what the default run needs beside the graph. No torch.

Names of optimisers, schedulers and metrics are those of torch and torchmetrics, and so are
their arguments; both are checked where torch is at hand, when a run is prepared.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.registry import Registry
from kdgraph.spec.entry import Entry, OneOf, Ref, use_name
from kdgraph.spec.transforms import TRANSFORMS, TransformEntry
from kdgraph.spec.types import Count, Name, Positive, Strict

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Whole = Annotated[int, Field(ge=0)]
_DOCUMENTED = ConfigDict(use_attribute_docstrings=True)
_OPEN = ConfigDict(use_attribute_docstrings=True, extra="allow")


class Augment(Strict):
    """Random changes of the training images; none at evaluation."""

    model_config = _DOCUMENTED

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

    model_config = _DOCUMENTED

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

    model_config = _DOCUMENTED

    batch_size: Count = 64
    """Rows in a batch. A last, incomplete batch of training is left out."""

    limit: Count | None = None
    """Keeps only this many training rows, drawn once, alike from every class where known."""

    select_classes: Annotated[tuple[Whole, ...], Field(strict=False, min_length=1)] | None = None
    """Keeps only the rows of these classes and numbers them from 0 in this order; all parts."""

    split_seed: Seed = 0
    """Draws what ``limit`` keeps and, for a set without one of its own, the validation part."""

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


class Optimizer(Strict):
    """An optimiser of ``torch.optim`` by its class name, with that class's arguments."""

    model_config = _OPEN

    use: str
    """``SGD``, ``AdamW``, ..."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What is written beside the keys above."""
        return dict(self.model_extra or {})


class Scheduler(Strict):
    """A scheduler of ``torch.optim.lr_scheduler`` by its class name, with its arguments.

    The word ``auto`` as the value of an argument stands for the length of the whole run, in
    the unit of ``interval``: ``{use: CosineAnnealingLR, T_max: auto}``.
    """

    model_config = _OPEN

    use: str
    """``CosineAnnealingLR``, ``MultiStepLR``, ``OneCycleLR``, ``ReduceLROnPlateau``, ..."""

    interval: Literal["epoch", "step"] = "epoch"
    """Whether it moves after each epoch or after each step of the optimiser."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What is written beside the keys above."""
        return dict(self.model_extra or {})


class Metric(Strict):
    """A metric of torchmetrics in lower case with underscores, with its class's arguments.

    With labels (a target entry that has ``classes``) ``accuracy`` is
    ``torchmetrics.classification.MulticlassAccuracy`` and so on, averaged over samples unless
    ``average`` says otherwise; else ``mean_squared_error`` is ``torchmetrics.MeanSquaredError``.
    With ``evaluate: {decode: ...}`` it is one of ``torchmetrics.text``: ``word_error_rate``.
    """

    model_config = _OPEN

    use: str
    """``accuracy``, ``f1_score``, ``calibration_error``, ``mean_squared_error``, ..."""

    name: str | None = None
    """What tables and logs call it; left out: ``use``. Tells two of a kind apart."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What is written beside the keys above."""
        return dict(self.model_extra or {})

    @property
    def title(self) -> str:
        """What tables and logs call it."""
        return self.name or self.use


class Decode(Strict):
    """How text is read off the prediction, so that metrics of text compare it with the target.

    ``ctc``: of the best class of each frame, repeats are joined and blanks left out. Which class
    is the blank, and how long predictions and targets are, is what the edge ``ctc`` says.
    """

    model_config = _DOCUMENTED

    use: Literal["ctc"]
    """How."""

    symbols: Annotated[str, Field(min_length=1)]
    """One character for each class but the blank, in order; a space parts words."""


class Evaluate(Strict):
    """Which prediction is compared with which batch entry."""

    model_config = _DOCUMENTED

    student: Ref | None = None
    """A tap on the student's own ``output``; left out: the only such tap, else the output."""

    target: Name | None = None
    """A batch entry; left out: the only one that has ``classes``."""

    decode: Decode | None = None
    """Left out: the prediction is compared as it is."""


class EarlyStop(Strict):
    """Ends a run when the monitored metric has not improved for a while."""

    model_config = _DOCUMENTED

    patience: Count
    """Epochs without improvement that are borne."""

    metric: str | None = None
    """Left out: the monitored metric."""

    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """A change of no more than this is no improvement."""


class TeacherTraining(Strict):
    """How frozen models that come without weights are trained first, on the labels alone.

    They see the same data as the student, but for transforms that add columns (views, MixUp).
    What is left out is as for the student.
    """

    model_config = _DOCUMENTED

    epochs: Count
    """Passes over the training data."""

    models: Annotated[tuple[Name, ...], Field(strict=False)] | None = None
    """Which; left out: every frozen model with neither ``weights`` nor pretrained arguments."""

    classes: Count | None = None
    """Trains and scores them on all classes of the data, this many, not on ``select_classes``."""

    optimizer: Optimizer | None = None
    """Left out: the student's."""

    scheduler: Scheduler | None = None
    """Left out: the student's."""


def _named(value: object) -> object:
    """``accuracy`` stands for ``{use: accuracy}``."""
    return {"use": value} if isinstance(value, str) else value


_Metric = Annotated[Metric, BeforeValidator(_named, json_schema_input_type=str | dict[str, Any])]


class TrainSpec(Strict):
    """A run of ``kdgraph train``."""

    model_config = _DOCUMENTED

    epochs: Count
    """Passes over the training data."""

    optimizer: Optimizer
    """Of ``torch.optim``; it gets the trained models and the adapters."""

    scheduler: Scheduler | None = None
    """Of ``torch.optim.lr_scheduler``."""

    metrics: Annotated[tuple[_Metric, ...], Field(strict=False, min_length=1)] = (
        Metric(use="accuracy"),
    )
    """Computed on the validation data after each epoch and on the test data once, at the end."""

    evaluate: Evaluate = Evaluate()
    """Which prediction is scored against which batch entry."""

    monitor: str | None = None
    """The metric that ``keep: best`` and ``early_stop`` go by; left out: the first."""

    early_stop: EarlyStop | None = None
    """Left out: all epochs are run."""

    keep: Literal["last", "best"] = "last"
    """Which weights the run ends with: the last, or the best on the validation data."""

    precision: Literal["32-true", "64-true", "16-mixed", "bf16-mixed"] = "32-true"
    """As Lightning names it."""

    grad_clip: Positive | None = None
    """The largest norm of all gradients together; left out: not clipped."""

    accumulate: Count = 1
    """Batches whose gradients are averaged into one step of the optimiser."""

    seed: Seed = 0
    """Of initial values, data order, augmentation and dropout. A second run uses seed + 1."""

    log_every: Count = 50
    """Steps of the optimiser between two rows of the training log."""

    teacher: TeacherTraining | None = None
    """Trains the teachers first; left out: they are used as their source builds them."""


DataSpec = Annotated[DataEntry, OneOf(DATA)]
