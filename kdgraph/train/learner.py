"""The Lightning module that trains a compiled spec, and scores the student on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader

from kdgraph.runtime.carry import carry
from kdgraph.runtime.module import DistillModule
from kdgraph.spec.language import Spec
from kdgraph.spec.training import TrainSpec
from kdgraph.train.checkpoint import as_sharded, with_tensors
from kdgraph.train.course import Course
from kdgraph.train.data._load import eval_loader, train_loader
from kdgraph.train.data._split import seed_of
from kdgraph.train.data.base import DataSet, Splits
from kdgraph.train.means import Means
from kdgraph.train.metrics import monitored, rises
from kdgraph.train.optim import (
    build_optimizer,
    build_scheduler,
    by_model,
    frozen_names,
    join,
    named,
    only_gradients_of,
    restore,
    state_of,
    trained_parameters,
)
from kdgraph.train.ranks import of_rank, rank, world
from kdgraph.train.report.watch import Watch
from kdgraph.train.score import Score
from kdgraph.train.scorer import Batch, Scorer
from kdgraph.train.whole import Whole
from kdgraph.train.windows import Ahead, Weigher

_KEEPING = ("freeze", "unfreeze")  # rebuild the graph, but what it computes is the same


class Learner(Scorer):
    """Trains a compiled spec. It knows by itself where training is, so that it can be resumed.

    Attributes:
        course: the stages, and which is the present one.
        whole: the networks in one piece, wherever their weights are.
        epoch: epochs completed of the present stage.
        batch: batches done of the epoch under way.
        iteration: steps of the optimiser done in all.
        means: of the total loss and each edge over the epoch under way.
        watch: what a report tells of the run; it has no part in training.
    """

    def __init__(
        self,
        step: DistillModule,
        spec: Spec,
        score: Score,
        data: DataSet,
        splits: Splits,
        seed: int,
        booked: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(spec, score)
        assert spec.train is not None
        if spec.train.accumulate > 1:
            step.share()  # which plans anew, so before an optimiser has its parameters
        self.distill = step
        self.whole = Whole(step)
        self.spec = spec
        self.splits, self.seed = splits, seed
        self.course = Course(spec, data, len(splits.train))
        self.epoch = self.batch = self.iteration = 0
        self.means = Means()
        self.watch = Watch(step, spec, score, booked)
        if step.stages is not None:
            step.stages.batches = self._plain_batches
        self._start: Mapping[str, Any] = {}
        self._ahead: Ahead | None = None
        self._weigher = Weigher()
        self._first_iteration = 0

    def _plain_batches(self) -> Iterator[Batch]:
        """The training data once, in order, neither augmented nor transformed."""
        for batch in eval_loader(self.splits.train, self.course.data):
            yield {name: value.to(self.device) for name, value in batch.items()}

    def scored(self) -> nn.Module:
        """The student's own module: at evaluation no teacher runs."""
        return self.distill.student

    @property
    def monitor(self) -> str:
        """The metric that decides which weights are best."""
        return monitored(self.settings)

    def better(self, metric: str) -> float:
        """The last value of a metric, turned so that larger is better."""
        return self.found[metric] if self.rises(metric) else -self.found[metric]

    def rises(self, name: str) -> bool:
        """Whether a larger value of a metric is a better one."""
        return rises(self.metrics, name)

    @property
    def settings(self) -> TrainSpec:
        """The ``train`` block as it is in the present stage."""
        return self.course.settings

    @property
    def student(self) -> nn.Module:
        """The network that is scored, whole."""
        return self.whole.networks[self.score.model]

    def on_validation_epoch_start(self) -> None:
        """Lets all processes score the same student, and that outside of the step."""
        super().on_validation_epoch_start()
        self.whole.agree()
        self.whole.unshard()

    def on_validation_epoch_end(self) -> None:
        """Computes the metrics."""
        self.whole.reshard()
        super().on_validation_epoch_end()

    def next_stage(self) -> None:
        """Goes to the next stage, with the actions in between; the optimiser is built anew."""
        self.course.advance(self.epoch, self.iteration)
        self.epoch = self.batch = 0
        self._start = {}  # the state of an optimiser that has had its stage
        torch.manual_seed(seed_of("stage", self.seed, self.course.at))
        leg = self.course.leg(0, self.iteration)
        assert leg is not None
        self.distill.set_stage(leg)

    def act(self, best: bool) -> bool:
        """Does the actions that are due after an epoch.

        Returns:
            Whether networks compute something else now, so that weights from before do not fit.
        """
        if self.distill.stages is None:
            return False
        stages = self.distill.stages
        before = len(stages.log)
        torch.manual_seed(seed_of("act", self.seed, self.course.passed + self.epoch))
        self.distill.after_epoch(self.epoch, best=best)
        carry(self.optimizer, stages.moved, (), stages.nets)
        join(self.optimizer, self.settings.optimizer, self.distill)
        if len(stages.log) > before:
            self.replaced()
        stage = stages.stage
        did = (stage.during[done.at] for done in stages.log[before:] if done.lines)
        return any(getattr(a, "rebuilds", False) and a.use not in _KEEPING for a in did)

    def replaced(self) -> None:
        """Lets what averages gradients follow parameters that actions have replaced."""
        wrap = getattr(self.trainer.strategy, "wrap_anew", None)
        if wrap is not None:
            wrap()

    def end_course(self) -> None:
        """Does the actions that end the last stage."""
        if self.course.stage is not None:
            torch.manual_seed(seed_of("stage", self.seed, self.course.at + 1))
            self.distill.finish()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser; the scheduler is moved here and not by Lightning.

        Lightning saves a checkpoint before a plateau scheduler has moved, and so does not
        resume exactly.
        """
        written = self.settings.optimizer
        stage = self.course.stage
        own = ("stages", self.course.at) if stage and stage.optimizer else ("train",)
        place = self.spec.span(*own, "optimizer")
        self.optimizer = build_optimizer(
            written, trained_parameters(self.distill), place, frozen_names(self.distill)
        )
        self.scheduler: LRScheduler | None = None
        if self.settings.scheduler is not None:
            self.scheduler = build_scheduler(
                self.settings.scheduler,
                self.optimizer,
                epochs=self.settings.epochs,
                steps=self.course.steps(),
                higher_is_better=self.rises(self.monitor),
                span=self.spec.span("train", "scheduler"),
            )
        return self.optimizer

    def train_dataloader(self) -> DataLoader[Batch] | Ahead:
        """What is left of the epoch under way."""
        epoch, size = self.course.passed + self.epoch, self.settings.accumulate
        loader = train_loader(
            self.splits.train, self.course.data, seed=self.seed, epoch=epoch, done=self.batch,
            share=(rank(), world()),
        )  # fmt: skip
        self._ahead = Ahead(loader, size) if size > 1 else None
        return self._ahead or loader

    def val_dataloader(self) -> DataLoader[Batch]:
        """All of the validation data, of which each process has a part."""
        return eval_loader(self.splits.val, self.course.data, (rank(), world()))

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """Random numbers and schedules depend on the place in training and on nothing before."""
        place = ("step", self.seed, self.course.passed + self.epoch, self.batch)
        torch.manual_seed(seed_of(*place))
        leg = self.course.leg(self.epoch, self.iteration)
        if self.distill.stages is not None and leg not in (None, self.distill.stages.leg):
            self.distill.set_stage(leg)
        if rank():  # what is drawn for one row, by dropout say, is not drawn for another
            torch.manual_seed(seed_of(*place, *of_rank()))
        epoch = self.epoch + self.batch / self.course.batches
        self.distill.set_progress(epoch=epoch, iteration=self.iteration - self.course.begun)
        size = self.settings.accumulate
        if self._ahead is not None and index % size == 0:
            batches = [
                {name: one[name].to(self.device) for name in self.spec.batch}
                for one in self._ahead.next_step()
            ]
            self._weigher.begin(self.distill, batches, size)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The compiled step."""
        out = self.distill(**{name: batch[name] for name in self.spec.batch})
        self.means.add(out.loss, out.losses)
        self.watch.saw_step(out, self.iteration, self._scale)
        return self._weigher(out.loss)

    def _scale(self) -> float:
        """What the loss is multiplied by in half precision."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return float(scaler.get_scale()) if scaler is not None else 1.0

    def saw(self, prediction: Tensor, batch: Batch, index: int) -> None:
        """Compares the student with its teachers."""
        self.watch.saw_prediction(prediction, batch, index)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Each model's gradients by themselves, as if it had an optimiser of its own."""
        if gradient_clip_val is None:
            return
        clip = super().configure_gradient_clipping
        for _ in only_gradients_of(by_model(self.distill, self.score.model)):
            clip(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        """Counts, writes the log, moves a scheduler of steps."""
        self.batch += 1
        iteration = self._first_iteration + self.trainer.global_step
        if iteration == self.iteration:
            return  # gradients are still being accumulated
        self._weigher.end()
        self.iteration = iteration
        settings = self.settings
        row = self.watch.after_step(iteration)
        if iteration % settings.log_every == 0:  # of this step, so before the rate moves on
            losses = self.means.last()
            row = {**self.watch.logged(self.optimizer, losses), **losses, **row}
        written = settings.scheduler
        if self.scheduler is not None and written is not None and written.interval == "step":
            self.scheduler.step()
        if row:
            self.write(row)

    def end_epoch(self) -> None:
        """Moves to the next epoch."""
        self.epoch, self.batch = self.epoch + 1, 0
        if self.scheduler is None or self.settings.scheduler is None:
            return
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(self.found[self.monitor])
        elif self.settings.scheduler.interval == "epoch":
            self.scheduler.step()

    def write(self, values: Mapping[str, float]) -> None:
        """Writes to every log, at the present step; rows of whole epochs hold their number."""
        epoch = self.course.passed + self.epoch + self.batch / self.course.batches
        self.watch.note(self.iteration, epoch, values, whole="epoch" in values)
        for logger in self.loggers:
            logger.log_metrics(dict(values), step=self.iteration)

    def state(self) -> dict[str, Any]:
        """All that training needs to go on exactly from here; all processes ask."""
        self.whole.agree()
        return {
            "distill": self.distill.state_dict(),
            "optimizer": state_of(self.optimizer, self.distill),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "precision": self.trainer.precision_plugin.state_dict(),
            "place": {"epoch": self.epoch, "batch": self.batch, "iteration": self.iteration},
            "course": self.course.state(),
            "means": self.means.state(),
            "found": dict(self.found),
            "watch": self.watch.state(),
        }

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state; the optimiser's part waits until there is one."""
        self.distill.load_state_dict(state["distill"])
        self.epoch, self.batch, self.iteration = (
            state["place"][key] for key in ("epoch", "batch", "iteration")
        )
        self.course.take_up(state["course"])
        self.means.take_up(state["means"])
        self.found = dict(state["found"])
        if "watch" in state:  # checkpoints of version 0.1.0 have none
            self.watch.take_up(state["watch"])
        self._start = state

    def on_fit_start(self) -> None:
        """Restores what Lightning has built by now."""
        self._first_iteration = self.iteration
        if self._start:
            state, parameters = self._start["optimizer"], named(self.distill)
            if "folder" in self._start:
                state = with_tensors(state, Path(self._start["folder"]), parameters)
            else:
                state = as_sharded(state, parameters)
            restore(self.optimizer, self.distill, state)
            if self.scheduler is not None:
                self.scheduler.load_state_dict(self._start["scheduler"])
            self.trainer.precision_plugin.load_state_dict(self._start["precision"])
            self._start = {}
