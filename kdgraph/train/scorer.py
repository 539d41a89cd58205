"""The Lightning module that scores a model."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from kdgraph.errors import DataError
from kdgraph.spec.language import Spec
from kdgraph.train.data._batches import STAND_IN
from kdgraph.train.data._split import seed_of
from kdgraph.train.metrics import build_metrics
from kdgraph.train.ranks import of_rank
from kdgraph.train.report.confusion import Confusion
from kdgraph.train.score import Score

Batch = dict[str, Tensor]


class Scorer(LightningModule):
    """Runs the plain model over validation or test data and keeps what the metrics say.

    Attributes:
        found: the last result by metric.
    """

    def __init__(self, spec: Spec, score: Score) -> None:
        super().__init__()
        assert spec.train is not None
        self.score = score
        place = spec.span("train", "metrics")
        text = score.decoder is not None
        self.metrics = build_metrics(spec.train.metrics, score.classes, place, text=text)
        self._move_along = nn.ModuleDict(self.metrics)  # to the device
        self.found: dict[str, float] = {}

    def scored(self) -> nn.Module:
        """The model."""
        raise NotImplementedError  # both kinds define it

    def validation_step(self, batch: Batch, index: int) -> None:
        """One batch of validation data; passes with dropout draw the same numbers every time."""
        if index == 0:  # in the score's mode, whatever mode the model is handed over in
            self.score.ready(self.scored(), batch)
        if self.score.passes is not None:
            torch.manual_seed(seed_of("passes", index, *of_rank()))
        counts = batch.pop(STAND_IN, None) is None
        prediction = self.score.averaged(self.scored(), batch)
        if not counts:
            return
        self.saw(prediction, batch, index)
        for metric in self.metrics.values():
            self.score.update(metric, prediction, batch)

    def saw(self, prediction: Tensor, batch: Batch, index: int) -> None:
        """Called with each prediction, classes second."""

    def test_step(self, batch: Batch, index: int) -> None:
        """One batch of test data."""
        self.validation_step(batch, index)

    def on_validation_epoch_start(self) -> None:
        """Notes the mode in which the model is handed over."""
        self._was_training = self.scored().training

    def on_validation_epoch_end(self) -> None:
        """Computes the metrics, over the rows of all processes."""
        self.scored().train(self._was_training)
        for name, metric in self.metrics.items():
            value = metric.compute()
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise DataError.of("KD713", f"the metric {name!r} is not one number")
            self.found[name] = float(value)
            metric.reset()

    def on_test_epoch_start(self) -> None:
        """As for validation."""
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        """As for validation."""
        self.on_validation_epoch_end()


class Examiner(Scorer):
    """Scores a model that is not being trained."""

    def __init__(
        self, model: nn.Module, spec: Spec, score: Score, confusion: Confusion | None = None
    ) -> None:
        super().__init__(spec, score)
        self.model = model
        self.confusion = confusion

    def scored(self) -> nn.Module:
        """The model."""
        return self.model

    def saw(self, prediction: Tensor, batch: Batch, index: int) -> None:
        """Counts which classes are taken for which, where that is asked for."""
        if self.confusion is not None:
            self.confusion.add(prediction, batch)
