"""Teachers that are trained by the same command, or come trained."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch

from kdgraph.compiler import compile
from kdgraph.errors import CaptureError, DataError
from kdgraph.models.load import build_model
from kdgraph.spec.language import Spec
from kdgraph.train.data._open import open_data
from kdgraph.train.derive import teacher_by_itself, to_train
from kdgraph.train.keep import LAST, WEIGHTS, fingerprint, write_json
from kdgraph.train.ranks import told, writes
from kdgraph.train.report.follow import recall
from kdgraph.train.result import Run
from kdgraph.train.score import find_score
from kdgraph.train.session import Setting, count, evaluate, final_part, measured, train


def train_teachers(
    spec: Spec, out: Path, setting: Setting, trust: Collection[str], *, compare: bool
) -> tuple[list[Run], dict[str, Path], bool]:
    """Trains what the ``teacher`` block asks for; to compare, scores the other teachers too.

    Returns:
        Their runs; the weights of those that were trained, now or by an earlier command; and
        whether training went on for a teacher that an earlier command, by its limit of steps,
        had left unfinished, so that students of that teacher must start over.
    """
    runs, files, moved = [], {}, False
    chosen = to_train(spec)
    for name in spec.networks:
        if spec.is_trainable(name):
            continue
        if name in chosen:
            before = _content(out / name / WEIGHTS)
            run = _train_teacher(spec, name, out / name, setting, trust)
            moved |= before not in (None, _content(out / name / WEIGHTS))
            assert run.weights is not None
            files[name] = Path(run.weights)
            runs.append(run)
        elif not compare or not spec.models[name].taps:
            continue  # what only lends its parts to a student is no teacher
        elif (found := _score_teacher(spec, name, setting, trust)) is not None:
            runs.append(found)
    return runs, files, told(moved)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _train_teacher(
    spec: Spec, name: str, folder: Path, setting: Setting, trust: Collection[str]
) -> Run:
    own = teacher_by_itself(spec, name)
    assert own.train is not None
    mark, record = fingerprint(own, own.train.seed, {}), folder / "run.json"
    known: Run | None = told(_known(record, mark))
    if known is not None:
        setting.board.say(f"{name}: trained before, {known.weights}")
        recall(setting.report, known, folder / LAST)
        return known
    model = own.models[name]
    if model.source is None:
        raise DataError.of(
            "KD717", f"model {name!r} has no source to train", span=spec.span("models", name)
        )
    if own.data != spec.data:
        data, splits = open_data(own, trust)
        setting = replace(setting, data=data, splits=splits)
    torch.manual_seed(own.train.seed)
    place = spec.span("models", name, "source")
    net = build_model(model.source, model.args, trust=trust, span=place)
    step = compile(own, models={name: net}, trust=trust, without=setting.without, also=setting.also)
    score = find_score(own)
    run = train(name, step, own, score, own.train.seed, folder, mark, setting)
    if run.finished and writes():
        write_json(record, {"fingerprint": mark, "run": vars(run)})
    return run


def _known(record: Path, mark: str) -> Run | None:
    """The run that a record tells of, if it is the one meant and its weights are there."""
    try:
        said = json.loads(record.read_text(encoding="utf-8"))
        run = Run(**said["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    weights = record.parent / WEIGHTS  # the folder may have been moved
    if said["fingerprint"] != mark or not weights.exists():
        return None
    return replace(run, weights=str(weights))


def _score_teacher(spec: Spec, name: str, setting: Setting, trust: Collection[str]) -> Run | None:
    """The figures of a teacher as it comes; None if it predicts something else."""
    model = spec.models[name]
    if model.source is None:
        return None
    weights = spec.folder / model.weights if model.weights else None
    place = spec.span("models", name, "source")
    net = build_model(model.source, model.args, weights=weights, trust=trust, span=place)
    try:
        score = find_score(spec, name)
        val, final = (evaluate(net, spec, score, setting, part) for part in ("val", "test"))
    except (DataError, CaptureError):
        return None
    return Run(
        name=name, seed=0, part=final_part(setting.splits), metrics=final, val=val,
        epochs=0, steps=0, finished=True, parameters=count(net), seconds=0.0,
        weights=str(weights) if weights else None, **measured(net, spec, score, setting),
    )  # fmt: skip
