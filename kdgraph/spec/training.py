"""The ``train`` block: what the default run needs beside the graph and the data. No torch.

Names of optimisers, schedulers and metrics are those of torch and torchmetrics, and so are
their arguments; both are checked where torch is at hand, when a run is prepared.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from kdgraph.spec.entry import Ref
from kdgraph.spec.types import DOCUMENTED, Count, Name, Positive, Seed, Strict

_OPEN = ConfigDict(use_attribute_docstrings=True, extra="allow")


class Group(Strict):
    """Parameters with arguments of their own."""

    model_config = _OPEN

    params: Annotated[
        tuple[str, ...],
        BeforeValidator(
            lambda v: (v,) if isinstance(v, str) else v, json_schema_input_type=str | list[str]
        ),
        Field(strict=False, min_length=1),
    ]
    """Shell patterns over ``MODEL.path.weight``; adapters are ``links.LINK.path``."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What is written beside the key above."""
        return dict(self.model_extra or {})


class Optimizer(Strict):
    """An optimiser of ``torch.optim`` by its class name, with that class's arguments."""

    model_config = _OPEN

    use: str
    """``SGD``, ``AdamW``, ..."""

    groups: Annotated[tuple[Group, ...], Field(strict=False)] = ()
    """Parameters with other arguments; one that several patterns match is of the first group."""

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

    model_config = DOCUMENTED

    use: Literal["ctc"]
    """How."""

    symbols: Annotated[str, Field(min_length=1)]
    """One character for each class but the blank, in order; a space parts words."""


class Evaluate(Strict):
    """Which prediction is compared with which batch entry."""

    model_config = DOCUMENTED

    student: Ref | None = None
    """A tap on the student's own ``output``; left out: the only such tap, else the output."""

    target: Name | None = None
    """A batch entry; left out: the only one that has ``classes``."""

    decode: Decode | None = None
    """Left out: the prediction is compared as it is."""

    passes: Count | None = None
    """Runs the model so often with its dropout on, and scores the mean of its probabilities."""


class EarlyStop(Strict):
    """Ends a run when the monitored metric has not improved for a while."""

    model_config = DOCUMENTED

    patience: Count
    """Epochs without improvement that are borne."""

    metric: str | None = None
    """Left out: the monitored metric."""

    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """A change of no more than this is no improvement."""


class TeacherTraining(Strict):
    """How frozen models that come without weights are trained first, on the labels alone.

    They see the same data as the student, but for transforms that add columns (views, MixUp), and
    all of its training rows where the student has only ``shots``.
    What is left out is as for the student.
    """

    model_config = DOCUMENTED

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

    seed: Seed | None = None
    """Left out: the student's first, so that equal networks start from equal values."""


def _named(value: object) -> object:
    """``accuracy`` stands for ``{use: accuracy}``."""
    return {"use": value} if isinstance(value, str) else value


_Metric = Annotated[Metric, BeforeValidator(_named, json_schema_input_type=str | dict[str, Any])]


class TrainSpec(Strict):
    """A run of ``kdgraph train``."""

    model_config = DOCUMENTED

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
    """The largest norm of a model's gradients, all of them together; left out: not clipped."""

    accumulate: Count = 1
    """Batches that are one in a step of the optimiser: rows of all of them count alike."""

    seed: Seed = 0
    """Of initial values, data order, augmentation and dropout. A second run uses seed + 1."""

    log_every: Count = 50
    """Steps of the optimiser between two rows of the training log."""

    teacher: TeacherTraining | None = None
    """Trains the teachers first; left out: they are used as their source builds them."""
