"""What a run leaves on disk, written whole or not at all, and the callback that writes it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from kdgraph.actions._fold import without_actions
from kdgraph.errors import DataError
from kdgraph.models.weights import load_weights, save_weights
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import actions
from kdgraph.train import checkpoint
from kdgraph.train.learner import Learner
from kdgraph.train.ranks import meet, told, writes

LAST, BEST, WEIGHTS = "last.ckpt", "best.safetensors", "weights.safetensors"
STAGES, MODELS = "stages", "models"  # folders: the student after each stage, others that learn
_KEPT = ("best", "mark", "waited", "stopped", "seconds")


class Keeper(Callback):
    """Ends epochs: logs, remembers the best weights, stops early, saves the state."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.best: float | None = None  # larger is better, whatever the metric
        self.mark: float | None = None  # what early stopping compares with
        self.waited = 0
        self.stopped = False
        self.seconds = 0.0  # all sittings together
        self._since = time.monotonic()
        self.history: list[dict[str, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._since = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Also called when a limit of steps ends the run within an epoch: then only saves."""
        learner = pl_module
        assert isinstance(learner, Learner)
        if learner.batch == learner.course.batches:
            learner.end_epoch()
            row = {**learner.means.close(), **{f"val/{k}": v for k, v in learner.found.items()}}
            row |= learner.watch.after_epoch()
            epoch = learner.course.passed + learner.epoch
            learner.write({"epoch": epoch, **row})
            self.history.append({"epoch": epoch, "step": learner.iteration, **row})
            best = self._compare(learner)
            if learner.act(best) and learner.settings.keep == "best":
                self.best = None  # weights of other shapes are no choice any more
                self._save_best(learner)
            trainer.should_stop = trainer.should_stop or self.stopped
        self.save(learner)

    def _compare(self, learner: Learner) -> bool:
        """Whether the monitored metric is the best so far; counts towards an early stop."""
        settings = learner.settings
        now = learner.better(learner.monitor)
        best = self.best is None or now > self.best
        if best:
            self.best = now
            if not _takes_snapshots(learner.spec):
                learner.distill.snapshot()
            if settings.keep == "best":
                self._save_best(learner)
        if (early := settings.early_stop) is None or not learner.course.ends_round(learner.epoch):
            return best
        now = learner.better(early.metric or learner.monitor)
        if self.mark is None or now > self.mark + early.min_delta:
            self.mark, self.waited = now, 0
        else:
            self.waited += 1
            self.stopped = self.waited >= early.patience
        return best

    def next_stage(self, learner: Learner) -> None:
        """Ends a stage with the weights it keeps, and begins the next as if it were the first."""
        self._take_best(learner)
        stage = learner.course.stage
        assert stage is not None
        self._export(STAGES, stage.name, learner.student)
        learner.next_stage()
        self.best = self.mark = None
        self.waited, self.stopped = 0, False

    def _save_best(self, learner: Learner) -> None:
        learner.whole.gather()
        if writes():
            save_weights(learner.student, self._best_file(learner))

    def _take_best(self, learner: Learner) -> None:
        meet()  # it has been written
        best = self._best_file(learner)
        if learner.settings.keep == "best" and told(best.exists()):
            load_weights(learner.student, best)

    def _best_file(self, learner: Learner) -> Path:
        """One for each stage: a stage that is begun again after a kill finds that of the last."""
        at = learner.course.at
        return self.folder / (f"best-{at}.safetensors" if at else BEST)

    def save(self, learner: Learner) -> None:
        """Writes the checkpoint: a file, or a folder to which all processes write."""
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        own = {name: getattr(self, name) for name in _KEPT}
        state = {**learner.state(), "keeper": own, "history": self.history,
                 "fingerprint": self.fingerprint}  # fmt: skip
        checkpoint.write(self.folder / LAST, state)

    def take_up(self, learner: Learner) -> None:
        """Goes on from the checkpoint, if there is one.

        Raises:
            DataError: KD716 when it is of another run, or cannot be read.
        """
        path = told(checkpoint.place(self.folder / LAST))
        if path is None:
            return
        try:
            state = checkpoint.read(path)
        except Exception as error:  # a damaged file can make the reader raise anything
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise DataError.of("KD716", f"{path} cannot be read: {said}") from error
        if not isinstance(state, Mapping):
            raise DataError.of("KD716", f"{path} holds a {type(state).__name__}, no checkpoint")
        check_fingerprint(path, state.get("fingerprint"), self.fingerprint)
        try:
            for name in _KEPT:
                setattr(self, name, state["keeper"][name])
            self.history = list(state["history"])
            learner.take_up(state)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise DataError.of("KD716", f"{path} is damaged: {said}") from error
        _check_types(path, state["distill"], learner.distill.state_dict())

    def finish(self, learner: Learner, *, ended: bool) -> Path:
        """Leaves the student with the weights that are kept, and writes them.

        Only the end of the last stage has its ``after`` actions, not a limit of steps.
        """
        self._take_best(learner)
        if ended:
            learner.end_course()
        path = self.folder / WEIGHTS
        if writes():
            save_weights(without_actions(learner.student), path)
        for name, model in learner.whole.networks.items():
            if model is not learner.student and learner.spec.is_learning(name):
                self._export(MODELS, name, model)
        return path

    def _export(self, kind: str, name: str, model: nn.Module) -> None:
        """Writes the weights of a model as it is without what actions put into it."""
        if not writes():
            return
        folder = self.folder / kind
        folder.mkdir(exist_ok=True)
        save_weights(without_actions(model), folder / f"{name}.safetensors")


def _takes_snapshots(spec: Spec) -> bool:
    """Whether stages say themselves when a snapshot is taken."""
    uses = (action.use for stage in spec.stages for _, action in actions(stage))
    return "snapshot" in uses


def _check_types(path: Path, given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuses what was rounded on its way: whole numbers where there are others."""
    for name, value in given.items():
        mine = own.get(name)
        if not isinstance(value, Tensor) or not isinstance(mine, Tensor):
            continue
        if mine.is_floating_point() and not value.is_floating_point():
            types = [str(t.dtype).removeprefix("torch.") for t in (value, mine)]
            message = f"{path} is damaged: {name!r} is {types[0]}, not {types[1]}"
            raise DataError.of("KD716", message)


def check_fingerprint(path: Path, found: object, wanted: str) -> None:
    """Refuses to go on from the files of another run.

    Raises:
        DataError: KD716.
    """
    if found != wanted:
        raise DataError.of(
            "KD716",
            f"{path} is of another run: its spec, seed, data or teacher were different",
            help="train into another folder, or start over without resuming",
        )


def fingerprint(spec: Spec, seed: int, weights: Mapping[str, Path]) -> str:
    """Tells runs apart by all that their numbers depend on, but for code and versions."""
    said = spec.model_dump(mode="json", serialize_as_any=True, exclude={"name", "description"})
    for model in said["models"].values():
        model.pop("weights")
    files = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in weights.items()}
    text = json.dumps([said, seed, files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
