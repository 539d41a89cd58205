"""The default run: teachers first, then the student on every seed, alone too if asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import nn

from kdgraph.compiler import compile, plans
from kdgraph.errors import DataError, Diagnostic, KDGraphError
from kdgraph.networks import build_network
from kdgraph.passes.pipeline import pipeline
from kdgraph.runtime.report import Report as Compiled
from kdgraph.spec.language import ModelSpec, Spec
from kdgraph.spec.legs import actions
from kdgraph.spec.read import load_spec
from kdgraph.spec.training import EarlyStop, Optimizer, Scheduler, TrainSpec
from kdgraph.train.booked import in_views
from kdgraph.train.data._open import open_data
from kdgraph.train.data.base import DataSet, Splits
from kdgraph.train.derive import student_alone, teacher_by_itself, to_train
from kdgraph.train.groups import check_groups
from kdgraph.train.keep import fingerprint, write_json
from kdgraph.train.metrics import build_metrics, monitored, rises
from kdgraph.train.optim import build_optimizer, build_scheduler
from kdgraph.train.passes import check_passes
from kdgraph.train.progress import Board
from kdgraph.train.ranks import Place, joined, meet, writes
from kdgraph.train.report.report import Report
from kdgraph.train.result import Result, Run
from kdgraph.train.score import find_score
from kdgraph.train.session import Setting, train
from kdgraph.train.strategy import Kind, check_strategy
from kdgraph.train.teacher import train_teachers

_SOME = 997  # steps, for schedulers that are only looked at: no usual share of them is one step


def run(
    spec: str | Path | Mapping[str, Any] | Spec,
    *,
    out: str | Path,
    steps: int | None = None,
    seeds: int = 1,
    compare: bool = False,
    resume: bool = False,
    device: str = "auto",
    trust: Collection[str] = (),
    set: Sequence[str] = (),
    without: Collection[str] = (),
    also: Collection[str] = (),
    book: str | Path | None = None,
    strategy: Kind = "ddp",
    console: Console | None = None,
) -> Result:
    """Trains a spec by its ``data`` and ``train`` blocks.

    Teachers without weights are trained first if ``train`` has a ``teacher`` block, and reused
    as long as nothing that made them changes. The test part of the data is used once for each
    final model, and nothing is chosen by it.

    In ``out``: ``student.safetensors`` (the first seed's), ``result.json``, the report as
    ``report.html`` and ``report.json``, both brought up to date after each epoch, and a folder for
    each run, ``teacher``, ``distilled/seed-0``, ``alone/seed-0``, with ``weights.safetensors``,
    the checkpoint ``last.ckpt`` and logs for TensorBoard and in CSV.

    Under ``torchrun`` all processes train together, each on its part of every batch, and the first
    writes; the folder has to be one that all of them see.

    Args:
        spec: a path, YAML text, a mapping of the same form, or a ``Spec``.
        out: the folder for everything that is written.
        steps: ends each training after this many steps of the optimiser, counted from its
            beginning; what it has by then is evaluated and saved.
        seeds: how many students to train, with the seeds ``train.seed`` and following.
        compare: also trains each student on the labels alone (``student_alone``), from the same
            initial values, on the same batches in the same order, for as long.
        resume: goes on from the checkpoints in ``out``, to the same numbers as if nothing had
            come between.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        trust: Python modules that ``python/`` models and data may come from.
        set: overrides like ``losses.soft.tau=2``.
        without: optional passes to leave out, by name.
        also: optional passes to run that are off unless asked for, by name.
        book: the folder of a book of this spec (``kdgraph book build``), whose values are read
            in the place of the teachers; the teachers are neither built nor trained.
        strategy: how several processes share the training: ``ddp`` keeps everything in each,
            ``fsdp2`` shards the student, its gradients and the state of the optimiser.
        console: where progress is shown; left out: nowhere.

    Raises:
        KDGraphError: when the spec, the data or a model is not what it should be.
    """
    checked = load_spec(spec, set=set) if not isinstance(spec, Spec) else spec
    how = _How(Path(out), steps, seeds, compare, resume, device, trust, without, also, book,
               strategy, console)  # fmt: skip
    with joined(Place.found(device)):
        return _run(checked, how)


class _How(NamedTuple):
    """The arguments of ``run`` beside the spec."""

    folder: Path
    steps: int | None
    seeds: int
    compare: bool
    resume: bool
    device: str
    trust: Collection[str]
    without: Collection[str]
    also: Collection[str]
    book: str | Path | None
    strategy: Kind
    console: Console | None


def _run(checked: Spec, how: _How) -> Result:
    trust, without, also, folder = how.trust, how.without, how.also, how.folder
    check_training(checked)
    check_strategy(checked, how.strategy)
    pipeline(without, also)  # names that are none are found before anything is trained
    folder.mkdir(parents=True, exist_ok=True)
    data, splits = open_data(checked, trust)
    check_passes(checked, data, splits, trust)
    written, rows = checked, in_views(checked, data, splits, how.book)
    checked = rows.spec
    derived = [teacher_by_itself(checked, name) for name in to_train(checked)]
    if how.compare:
        derived.append(student_alone(written))
    booked = frozenset(checked.batch.keys() - written.batch.keys())
    report = Report(folder, written, describe(data, splits), booked) if writes() else None
    if derived or checked.stages:
        look = report.look if checked.stages and report is not None else None
        _plan_all([checked, *derived], trust, without, also, look)
    board = Board(how.console if writes() else None)
    setting = Setting(
        data, splits, how.steps, how.resume, how.device, board, without, also, booked=booked,
        report=report, strategy=how.strategy,
    )  # fmt: skip
    with board.open():
        teachers, files, moved = train_teachers(
            checked, folder, setting, trust, compare=how.compare
        )
        setting = replace(
            setting, resume=how.resume and not moved, splits=rows.splits, files=rows.files
        )
        checked = with_weights(checked, files)
        modes = {"distilled": checked} | (
            {"alone": with_weights(student_alone(written), files)} if how.compare else {}
        )
        found: dict[str, list[Run]] = {mode: [] for mode in modes}
        assert checked.train is not None
        for seed in range(checked.train.seed, checked.train.seed + how.seeds):
            for mode, one in modes.items():
                place = folder / mode / f"seed-{seed}"
                found[mode].append(_train_student(mode, one, seed, place, setting, trust))
    result = Result(
        spec=checked.name, data=describe(data, splits), out=str(folder),
        runs=found["distilled"], alone=found.get("alone", []), teachers=teachers,
    )  # fmt: skip
    if report is not None:
        _publish(found["distilled"][0], folder)
        write_json(folder / "result.json", result.as_dict())
        report.finish(result)
    meet()
    return result


def check_training(spec: Spec) -> None:
    """Finds what is wrong with the ``train`` block before anything is trained.

    Raises:
        DataError: KD717 when there is none, KD712 to KD714 for what is wrong in it.
    """
    if spec.train is None:
        raise DataError.of(
            "KD717",
            "the spec has no `train` block",
            span=spec.span(),
            help="write `train: {epochs: 10, optimizer: {use: SGD, lr: 0.1}}`, say",
        )
    found: list[Diagnostic] = []
    for check in (_check_optimizers, _check_metrics):
        try:
            check(spec, spec.train)
        except KDGraphError as error:
            found += error.diagnostics
    if found:
        raise DataError(found)


def _plan_all(
    specs: Sequence[Spec],
    trust: Collection[str],
    without: Collection[str],
    also: Collection[str],
    look: Callable[[Compiled], None] | None,
) -> None:
    """Finds what is wrong with any of several specs before the first of them is trained.

    The plans of the first, one for each stage and phase, are handed to ``look``.
    """
    for spec in specs:
        try:
            for plan in plans(spec, trust=trust, without=without, also=also):
                check_groups(spec, plan)
                if look is not None and spec is specs[0]:
                    look(plan)
        except KDGraphError as error:
            # what is still to be downloaded can be looked at only when it is compiled
            if any(d.code != "KD415" for d in error.diagnostics):
                raise


def _check_optimizers(spec: Spec, train: TrainSpec) -> None:
    """Builds what the block describes over a stand-in for the parameters."""
    found: list[Diagnostic] = []
    own: list[tuple[Optimizer, Scheduler | None, tuple[str | int, ...]]]
    own = [(train.optimizer, train.scheduler, ("train",))]
    if (teacher := train.teacher) is not None and (teacher.optimizer or teacher.scheduler):
        sound = teacher.optimizer or Optimizer(use="SGD")  # what is inherited is looked at above
        own.append((sound, teacher.scheduler, ("train", "teacher")))
    for at, stage in enumerate(spec.stages):
        if stage.optimizer is not None or stage.scheduler is not None:
            sound = stage.optimizer or Optimizer(use="SGD")
            own.append((sound, stage.scheduler, ("stages", at)))
    for optimizer, scheduler, keys in own:
        try:
            patterns = [group.params[0] for group in optimizer.groups]
            stand_in = {name: nn.Parameter(torch.zeros(1)) for name in ("", *patterns)}
            built = build_optimizer(optimizer, stand_in, spec.span(*keys, "optimizer"))
            if scheduler is not None:
                place = spec.span(*keys, "scheduler")
                build_scheduler(scheduler, built, epochs=_SOME, steps=_SOME, span=place)
        except KDGraphError as error:
            found += error.diagnostics
    if found:
        raise DataError(found)


def _check_metrics(spec: Spec, train: TrainSpec) -> None:
    score, place = find_score(spec), spec.span("train", "metrics")
    text = score.decoder is not None
    metrics = build_metrics(train.metrics, score.classes, place, text=text)
    rises(metrics, monitored(train), spec.span("train", "monitor"))
    stops: list[tuple[tuple[str | int, ...], EarlyStop | None]] = [(("train",), train.early_stop)]
    stops += [(("stages", at), stage.early_stop) for at, stage in enumerate(spec.stages)]
    for keys, stop in stops:
        if stop is not None and stop.metric is not None:
            rises(metrics, stop.metric, spec.span(*keys, "early_stop", "metric"))


def with_weights(spec: Spec, files: Mapping[str, Path]) -> Spec:
    """The spec with weights for some of its models, and of those that others start from."""

    def given(models: Mapping[str, ModelSpec]) -> dict[str, ModelSpec]:
        return {
            name: model.model_copy(update={"weights": str(files[name].resolve())})
            if name in files else model
            for name, model in models.items()
        }  # fmt: skip

    found = spec.model_copy(update={"models": given(spec.models)})
    found._origins = given(spec._origins)
    return found


def describe(data: DataSet, splits: Splits) -> str:
    """The data in one line."""
    sizes = [("training", splits.train), ("validation", splits.val), ("test", splits.test)]
    counts = ", ".join(f"{len(part):,} {name}" for name, part in sizes if part is not None)
    return f"{data.use}: {counts}; {splits.note}"


def _train_student(
    name: str, spec: Spec, seed: int, folder: Path, setting: Setting, trust: Collection[str]
) -> Run:
    score = find_score(spec)
    student = spec.models[score.model]
    given: dict[str, nn.Module] = {}
    if student.source is not None:
        # before anything else draws random numbers, so that with and without a teacher the
        # student starts from the same values
        torch.manual_seed(seed)
        given[score.model] = build_network(spec, score.model, trust)
    torch.manual_seed(seed)  # adapters
    step = compile(spec, models=given, trust=trust, without=setting.without, also=setting.also)
    if name == "distilled" and setting.report is not None and not setting.report.looked:
        setting.report.look(step.report)
    mark = fingerprint(spec, seed, {**_weights(spec), **setting.files})
    return train(name, step, spec, score, seed, folder, mark, setting)


def _weights(spec: Spec) -> dict[str, Path]:
    """The files that models, and actions of stages, have their weights of."""
    files = {n: m.weights for n, m in spec.models.items()}
    for stage in spec.stages:
        for (place, at), action in actions(stage):
            files[f"{stage.name}.{place}.{at}"] = getattr(action, "weights", None)
    return {name: spec.folder / path for name, path in files.items() if path is not None}


def _publish(first: Run, folder: Path) -> None:
    """Puts the first student where it is easy to find."""
    assert first.weights is not None
    part = folder / ".student.safetensors.part"
    shutil.copyfile(first.weights, part)
    part.replace(folder / "student.safetensors")
