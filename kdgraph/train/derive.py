"""Specs that follow from a spec: the student without its teacher, a teacher by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kdgraph.actions.graft import Graft
from kdgraph.capture.taps import parse_tap
from kdgraph.errors import DataError, near
from kdgraph.spec.entry import LOSSES, Entry
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import actions, at_stage, epochs_of
from kdgraph.train.data.base import DataSet
from kdgraph.train.data.transforms.base import Transform
from kdgraph.train.groups import fitting
from kdgraph.train.score import find_score, output_tap
from kdgraph.train.shares import in_shares

_TAP = "prediction"  # what the output is called where the spec has no tap on it
_PRETRAINED = ("pretrained", "weights")  # arguments by which sources fetch weights
_WHENCE = ("source", "args", "weights", "start_from")  # what says which network it is


def student_alone(spec: Spec) -> Spec:
    """The same training on the labels alone, without any teacher or other calls of the student.

    What stays are the edges that compare the prediction that is scored with the batch, through
    signals or not: label smoothing, weights of classes and mixed labels with them. What else is
    asked of the student (of its features, say) is a part of the method, and goes. Weights are
    divided by their sum where that is one number, as the share they had beside a teacher would
    only slow the labels down. Where no such edge is left, cross-entropy with the labels is put in.

    Instead of stages there is one training, for as many epochs as the student is trained in all of
    them, with the optimiser of ``train``; in batches of their size where the stages that train it
    agree on one, else of that of ``data``, which then are other steps than theirs. Groups of the
    optimiser for models and links that are not there are left out. Where segments of another
    network are grafted into the student, it is that network, which the student ends as.

    Repeated passes stay with them: an edge on a student of several passes reads all of them (a
    tap alone stands for no one tensor), and with fewer it would mean something else, or nothing.

    Raises:
        DataError: KD715 when there is no such edge and no labels to make one from.
    """
    spec = _in_one_stage(spec)
    score = find_score(spec)
    student, taps = score.model, spec.models[score.model].taps
    scored = {f"{student}.{n}" for n, path in taps.items() if parse_tap(path) == score.tap}
    edges = {
        name: edge
        for name, edge in spec.losses.items()
        if all(_own(spec, student, ref) for _, ref in edge.references())
        and _of_labels(spec, edge, scored)
    }
    if not edges:
        return fitting(_on_labels(spec, student, f"{spec.name}, student alone", {}), spec)
    edges, shares = in_shares(spec, edges)
    weighed = spec.model_copy(update={"signals": {**spec.signals, **shares}})
    signals = _behind(weighed, edges.values())
    # a tap that nothing reads any more may be of a module that only an action would have put in
    read = scored | {ref for e in (*edges.values(), *signals.values()) for _, ref in e.references()}
    kept = {name: path for name, path in taps.items() if f"{student}.{name}" in read}
    alone = spec.model_copy(
        update={
            "name": f"{spec.name}, student alone",
            "models": {student: spec.models[student].model_copy(update={"taps": kept})},
            "links": {}, "signals": signals, "losses": edges,
        }
    )  # fmt: skip
    return fitting(alone, spec)


def _in_one_stage(spec: Spec) -> Spec:
    """The same spec without stages, as long as all stages together train what is scored."""
    if not spec.stages:
        return spec
    assert spec.train is not None
    model = find_score(spec).model
    train = spec.train.model_copy(update={"epochs": epochs_of(spec, model)})
    origin = spec.models[_scion(spec, model) or model]
    changes = {"trainable": True, **{k: getattr(origin, k) for k in _WHENCE}}
    models = {**spec.models, model: spec.models[model].model_copy(update=changes)}
    data = spec.data
    if data is not None and (size := _batch_size(spec, model)) is not None:
        data = data.model_copy(update={"batch_size": size})
    return spec.model_copy(update={"stages": (), "train": train, "models": models, "data": data})


def _batch_size(spec: Spec, model: str) -> int | None:
    """That of all stages that train a model, if they agree; None for that of ``data``."""
    sizes = {
        stage.batch_size
        for stage in spec.stages
        if any(at_stage(spec, leg).is_trainable(model) for leg in stage.legs)
    }
    return sizes.pop() if len(sizes) == 1 else None


def _scion(spec: Spec, model: str) -> str | None:
    """The model whose segments are grafted into another, if there are any."""
    grafts = [a for stage in spec.stages for _, a in actions(stage) if isinstance(a, Graft)]
    pairs = [pair for graft in grafts for pair in zip(graft.at, graft.scion, strict=False)]
    found = (scion for at, scion in pairs if at.partition(".")[0] == model)
    return next((scion.partition(".")[0] for scion in found), None)


def _of_labels(spec: Spec, edge: Entry, scored: set[str]) -> bool:
    """Whether an edge compares a scored prediction with what is in the batch."""
    truth = getattr(edge, "target", None) or getattr(edge, "teacher", None)
    own = _sources(spec, getattr(edge, "student", None))
    return not scored.isdisjoint(own) and not spec.batch.keys().isdisjoint(_sources(spec, truth))


def _sources(spec: Spec, ref: str | None) -> set[str]:
    """The taps and batch entries behind a reference."""
    if ref is None or ref not in spec.signals:
        return {ref} if ref else set()
    return {found for _, of in spec.signals[ref].references() for found in _sources(spec, of)}


def to_train(spec: Spec) -> list[str]:
    """Which models the ``teacher`` block trains.

    Raises:
        DataError: KD717 when it names a model that there is not, or that is trained anyway;
            KD718 when it names one that comes with ``weights``, which would be lost.
    """
    block = spec.train.teacher if spec.train else None
    if block is None:
        return []
    # also one that an action changes afterwards
    frozen = [
        n for n in spec.networks
        if not spec.is_learning(n) and spec.models[n].snapshot_of is None
    ]  # fmt: skip
    for at, name in enumerate(block.models or ()):
        if name not in frozen:
            raise DataError.of(
                "KD717",
                f"{name!r} is not a frozen model of the spec",
                span=spec.span("train", "teacher", "models", at),
                help=near(name, frozen) or f"there are {', '.join(frozen) or 'none'}",
            )
        if spec.models[name].weights is not None:
            raise DataError.of(
                "KD718",
                f"{name!r} has `weights`, which training it from scratch would not use",
                span=spec.span("train", "teacher", "models", at),
                help=f"leave {name!r} out of `models` here, or remove its `weights`",
            )
    if block.models is not None:
        return list(block.models)
    return [
        n for n in frozen
        if spec.models[n].weights is None
        and not any(spec.models[n].args.get(key) for key in _PRETRAINED)
    ]  # fmt: skip


def teacher_by_itself(spec: Spec, teacher: str) -> Spec:
    """The training of a teacher on the labels, by the ``teacher`` block of ``train``.

    It sees every row, however few ``shots`` there are for the student.

    Transforms that add columns (a second view, mixed labels) are left out: nothing reads them.

    Raises:
        DataError: KD715 when there are no labels.
    """
    assert spec.train is not None
    block = spec.train.teacher
    assert block is not None
    spec = spec.model_copy(update={"stages": (), "book": None})
    changes: dict[str, Any] = {"epochs": block.epochs, "teacher": None, "early_stop": None}
    if block.optimizer is not None:
        changes["optimizer"] = block.optimizer
    if block.scheduler is not None:
        changes["scheduler"] = block.scheduler
    if block.seed is not None:
        changes["seed"] = block.seed
    own = _on_labels(spec, teacher, f"{spec.name}, {teacher}", changes)
    score = find_score(own)
    inputs = [score.inputs] if isinstance(score.inputs, str) else score.inputs.values()
    read = {*inputs, score.target, *_entries(own)}
    batch = {n: e for n, e in own.batch.items() if n in read}
    data = own.data
    if isinstance(data, DataSet):
        data = data.model_copy(update={"transforms": _kept(data), "shots": None})
    if block.classes is not None and data is not None:
        batch[score.target] = batch[score.target].model_copy(update={"classes": block.classes})
        data = data.model_copy(update={"select_classes": None})
    return fitting(own.model_copy(update={"batch": batch, "data": data}), spec)


def _kept(data: DataSet) -> tuple[Transform, ...]:
    """The transforms that neither add columns nor read an added one."""
    added: set[str] = set()
    kept = []
    for step in data.steps():
        added |= set(step.adds())
        if not step.adds() and not added & set(step.reads()):
            kept.append(step)
    return tuple(kept)


def _on_labels(spec: Spec, model: str, name: str, train: dict[str, Any]) -> Spec:
    """One model, one edge: cross-entropy of its prediction with the labels.

    Where the prediction is decoded, labels do not stand beside it one by one: the edge that says
    how they belong together is used, on this model's prediction.
    """
    assert spec.train is not None
    score = find_score(spec, model)
    if score.classes is None:
        raise DataError.of(
            "KD715",
            f"{model!r} cannot be trained by itself: {score.target!r} holds no labels",
            span=spec.span("batch", score.target),
            help="write `classes` in the batch entry, or give the teacher `weights`",
        )
    tap = output_tap(spec, model) or _TAP
    taps = {tap: spec.models[model].taps.get(tap, score.tap.text)}
    prediction = f"{model}.{tap}"
    if score.decoder is not None:
        edge = score.decoder.edge.model_copy(update={"student": prediction, "weight": 1.0})
    else:
        edge = LOSSES.get("cross_entropy")(
            student=prediction, target=score.target, ignore_index=score.ignore_index
        )
    evaluate = spec.train.evaluate.model_copy(
        update={"student": prediction, "target": score.target}
    )
    own = spec.models[model].model_copy(
        update={"trainable": True, "taps": taps, "passes": None}
        | dict.fromkeys(("dropout", "batch_statistics"), False)
    )
    return spec.model_copy(
        update={
            "name": name,
            "models": {model: own},
            "links": {}, "signals": _behind(spec, [edge]), "losses": {"label": edge},
            "train": spec.train.model_copy(update={**train, "evaluate": evaluate}),
        }
    )  # fmt: skip


def _own(spec: Spec, student: str, ref: str) -> bool:
    """Whether a reference is to the student or to the batch, or to a signal made of those."""
    if (signal := spec.signals.get(ref)) is not None:
        return not signal.teaches and all(
            _own(spec, student, inner) for _, inner in signal.references()
        )
    return ref in spec.batch or ref.partition(".")[0] == student


def _entries(spec: Spec) -> set[str]:
    """The batch entries that loss edges and signals read."""
    entries: list[Entry] = [*spec.losses.values(), *spec.signals.values()]
    return {ref for e in entries for _, ref in e.references()} & spec.batch.keys()


def _behind(spec: Spec, entries: Iterable[Entry]) -> dict[str, Any]:
    """The signals that entries read, directly or through other signals, in the spec's order."""
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        new = {ref for _, ref in waiting.pop().references() if ref in spec.signals} - found
        found |= new
        waiting += [spec.signals[name] for name in new]
    return {name: signal for name, signal in spec.signals.items() if name in found}
