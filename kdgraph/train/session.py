"""One training: a compiled spec, its data and a seed, to weights and figures in a folder."""

from __future__ import annotations

import logging
import shutil
import signal
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from kdgraph.actions._fold import without_actions
from kdgraph.errors import DataError
from kdgraph.runtime.module import DistillModule
from kdgraph.spec.language import Spec
from kdgraph.spec.training import TrainSpec
from kdgraph.train.checkpoint import remove
from kdgraph.train.data._load import eval_loader
from kdgraph.train.data.base import DataSet, Splits
from kdgraph.train.keep import BEST, LAST, MODELS, STAGES, WEIGHTS, Keeper
from kdgraph.train.latency import latency
from kdgraph.train.learner import Learner
from kdgraph.train.progress import Board
from kdgraph.train.ranks import Place, meet, rank, world, writes
from kdgraph.train.report.confusion import Confusion
from kdgraph.train.report.follow import Follow
from kdgraph.train.report.report import Report
from kdgraph.train.result import Run
from kdgraph.train.score import Score
from kdgraph.train.scorer import Examiner
from kdgraph.train.strategy import Kind, shared_by


@dataclass(frozen=True)
class Setting:
    """What all trainings of one command share.

    Attributes:
        data: the data set as the spec describes it.
        splits: its parts.
        steps: ends each training after this many steps of the optimiser; None runs to the end.
        resume: goes on from checkpoints.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        board: where progress is shown.
        without: optional passes to leave out.
        also: optional passes to run that are off unless asked for.
        files: further files that the numbers of a run depend on, by name.
        booked: batch entries that a book gives.
        report: is told of each run; None where there is none, or another process writes it.
        strategy: how several processes share the training.
    """

    data: DataSet
    splits: Splits
    steps: int | None
    resume: bool
    device: str
    board: Board
    without: Collection[str] = ()
    also: Collection[str] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    booked: frozenset[str] = frozenset()
    report: Report | None = None
    strategy: Kind = "ddp"


def train(
    name: str, step: DistillModule, spec: Spec, score: Score, seed: int, folder: Path,
    mark: str, setting: Setting,
) -> Run:  # fmt: skip
    """Trains, or goes on training, and scores what came out.

    Args:
        name: what the run is called.
        step: the compiled spec, its student fresh.
        spec: what was compiled.
        score: what the student is scored on.
        seed: of data order, augmentation and dropout.
        folder: where everything goes.
        mark: the fingerprint; a checkpoint of another one is refused.
        setting: shared by all runs.

    Raises:
        DataError: KD716 when resuming a run that was another; KD718 for batches of fewer rows
            than there are processes.
        InputError: when a batch is not what the spec says, or a loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    learner = Learner(step, spec, score, setting.data, setting.splits, seed, setting.booked)
    _check_parts(learner)
    keeper = Keeper(folder, mark)
    if setting.resume:
        keeper.take_up(learner)
    elif writes():
        _clear(folder)
    meet()  # before anything is written
    total = learner.course.total_steps()
    follow = Follow(setting.report, name, learner, min(setting.steps or total, total))
    follow.tell("training")
    _run(name, learner, keeper, follow, setting)
    ended = keeper.stopped or learner.epoch == learner.settings.epochs
    ended = ended and learner.course.is_last
    learner.whole.gather()
    val = evaluate(learner.student, spec, score, setting, "val")
    weights = keeper.finish(learner, ended=ended)
    exported = without_actions(learner.student)
    confusion = Confusion(score)
    final = evaluate(exported, spec, score, setting, "test", confusion)
    run = Run(
        name=name, seed=seed, part=final_part(setting.splits), metrics=final, val=val,
        epochs=learner.course.passed + learner.epoch, steps=learner.iteration,
        finished=ended, actions=learner.watch.actions(),
        parameters=count(exported), seconds=keeper.seconds, weights=str(weights),
        **measured(exported, spec, score, setting),
    )  # fmt: skip
    setting.board.done(run)
    follow.end(run, confusion, folder)
    meet()  # all that is written is there
    return run


def _check_parts(learner: Learner) -> None:
    """Refuses batches that have no row for some process.

    Raises:
        DataError: KD718.
    """
    rows = min(learner.course.rows())
    if rows < world():
        message = f"{world()} processes cannot share a batch of {rows} rows"
        help = "a batch is that of all processes together: take a larger `data.batch_size`"
        raise DataError.of("KD718", message, span=learner.spec.span("data"), help=help)


def _run(name: str, learner: Learner, keeper: Keeper, follow: Follow, setting: Setting) -> None:
    """Goes through what is left of the stages, up to a limit of steps."""
    total, limit = learner.course.total_steps(), follow.limit
    while True:
        to_do = learner.epoch < learner.settings.epochs and not keeper.stopped
        if to_do and learner.iteration < limit:
            _fit(name, learner, keeper, follow, setting)
        ended = keeper.stopped or learner.epoch == learner.settings.epochs
        if not ended or learner.course.is_last or learner.iteration >= limit < total:
            return
        keeper.next_stage(learner)


def _fit(name: str, learner: Learner, keeper: Keeper, follow: Follow, setting: Setting) -> None:
    """Runs Lightning's loop from where the learner is."""
    stage = learner.course.stage
    title = f"{name}, seed {learner.seed}" + (f", {stage.name}" if stage else "")
    follower = setting.board.follow(title, follow.limit)
    interrupt = signal.getsignal(signal.SIGINT)
    with quiet():
        trainer = _trainer(
            setting, learner.settings, [keeper, follower, follow], keeper.folder,
            max_epochs=learner.settings.epochs - learner.epoch,
            max_steps=follow.limit - learner.iteration if setting.steps else -1,
        )  # fmt: skip
        try:
            trainer.fit(learner)
        except SystemExit as error:
            # Lightning answers Ctrl+C so, and is deaf to it from then on
            signal.signal(signal.SIGINT, interrupt)
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise
        except RuntimeError as error:
            if "finished reduction in the prior iteration" not in str(error):
                raise
            message = "a step leaves out parameters that the first one used (LayerDrop?), which "
            message += "several processes cannot follow"
            raise DataError.of("KD718", message, help="train without that") from error


def evaluate(
    model: nn.Module,
    spec: Spec,
    score: Score,
    setting: Setting,
    part: str,
    confusion: Confusion | None = None,
) -> dict[str, float]:
    """The metrics of a model on the validation data or, once it is final, on the test data."""
    assert spec.train is not None
    split = setting.splits.val
    if part == "test" and setting.splits.test is not None:
        split = setting.splits.test
    examiner = Examiner(model, spec, score, confusion)
    with quiet():
        trainer = _trainer(setting, spec.train, [], None)
        trainer.test(examiner, eval_loader(split, setting.data, (rank(), world())), verbose=False)
    return examiner.found


def measured(model: nn.Module, spec: Spec, score: Score, setting: Setting) -> dict[str, Any]:
    """What a run says of the time that its model takes; only who writes it looks."""
    assert spec.train is not None
    if not writes():
        return {}
    with quiet():
        device = _trainer(setting, spec.train, [], None).strategy.root_device
    sample = eval_loader(setting.splits.val, setting.data).dataset[0, 0, [0]]
    return {"latency": latency(model, score, sample, device), "device": str(device)}


def final_part(splits: Splits) -> str:
    """Which part final figures are of."""
    return "val" if splits.test is None else "test"


def count(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def _trainer(
    setting: Setting, settings: TrainSpec, callbacks: Sequence[Callback], folder: Path | None,
    **limits: Any,
) -> pl.Trainer:  # fmt: skip
    accelerator, _, index = setting.device.partition(":")
    where: Mapping[str, Any] = {"devices": [int(index)] if index else 1}
    if world() > 1:
        place = Place.found(setting.device)
        accelerator, where = place.device.type, shared_by(place, setting.strategy)
    training: dict[str, Any] = {"logger": False}
    if folder is not None:
        loggers = [CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard")]
        training = {
            "logger": loggers if writes() else False,
            "gradient_clip_val": settings.grad_clip,
            "accumulate_grad_batches": settings.accumulate,
            # the learner hands out one epoch at a time, the first perhaps a rest of one
            "reload_dataloaders_every_n_epochs": 1,
        }
    try:
        return pl.Trainer(
            accelerator={"gpu": "cuda"}.get(accelerator, accelerator),
            precision=settings.precision,
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **where,
            **training,
            **limits,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        message = f"device {setting.device!r} cannot be used: {error}"
        raise DataError.of("KD710", message) from error


def _clear(folder: Path) -> None:
    """Removes what an earlier run left, but nothing else that lies there."""
    stages = (path.name for path in folder.glob("best-*.safetensors"))
    remove(folder / LAST)
    for name in (BEST, WEIGHTS, *stages):
        (folder / name).unlink(missing_ok=True)
    for name in ("csv", "tensorboard", STAGES, MODELS):
        shutil.rmtree(folder / name, ignore_errors=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning without its advice, which does not fit data in memory and small runs."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
