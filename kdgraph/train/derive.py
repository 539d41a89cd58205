"""Specs that follow from a spec: the student without its teacher, a teacher by itself."""

from __future__ import annotations

from typing import Any

from kdgraph.errors import DataError
from kdgraph.spec.entry import LOSSES
from kdgraph.spec.language import Spec
from kdgraph.spec.training import Evaluate
from kdgraph.train.score import find_score, output_tap

_TAP = "prediction"  # what the output is called where the spec has no tap on it


def student_alone(spec: Spec) -> Spec:
    """The same training without any teacher.

    What stays are the loss edges that read the student and the batch alone. A single one gets
    the weight 1, as the share it had beside a teacher would only slow it down; several keep
    their weights. Where there is none, cross-entropy with the labels is put in.

    Raises:
        DataError: KD715 when there is no such edge and no labels to make one from.
    """
    student = find_score(spec).model
    edges = {
        name: edge
        for name, edge in spec.losses.items()
        if all(_own(spec, student, ref) for _, ref in edge.references())
    }
    if len(edges) == 1:
        edges = {n: e.model_copy(update={"weight": 1.0}) for n, e in edges.items()}
    if not edges:
        return _on_labels(spec, student, f"{spec.name}, student alone", {})
    return spec.model_copy(
        update={
            "name": f"{spec.name}, student alone",
            "models": {student: spec.models[student]},
            "links": {}, "signals": {}, "losses": edges,
        }
    )  # fmt: skip


def teacher_by_itself(spec: Spec, teacher: str) -> Spec:
    """The training of a teacher on the labels, by the ``teacher`` block of ``train``.

    Raises:
        DataError: KD715 when there are no labels.
    """
    assert spec.train is not None
    block = spec.train.teacher
    assert block is not None
    changes: dict[str, Any] = {"epochs": block.epochs, "teacher": None, "early_stop": None}
    if block.optimizer is not None:
        changes["optimizer"] = block.optimizer
    if block.scheduler is not None:
        changes["scheduler"] = block.scheduler
    return _on_labels(spec, teacher, f"{spec.name}, {teacher}", changes)


def _on_labels(spec: Spec, model: str, name: str, train: dict[str, Any]) -> Spec:
    """One model, one edge: cross-entropy of its prediction with the labels."""
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
    edge = LOSSES.get("cross_entropy")(student=f"{model}.{tap}", target=score.target)
    evaluate = Evaluate(student=f"{model}.{tap}", target=score.target)
    own = spec.models[model].model_copy(update={"trainable": True, "taps": taps})
    return spec.model_copy(
        update={
            "name": name,
            "models": {model: own},
            "links": {}, "signals": {}, "losses": {"label": edge},
            "train": spec.train.model_copy(update={**train, "evaluate": evaluate}),
        }
    )  # fmt: skip


def _own(spec: Spec, student: str, ref: str) -> bool:
    """Whether a reference is to the student or to the batch."""
    return ref in spec.batch or ref.partition(".")[0] == student
