"""``stages``, ``train`` and ``data`` of the draft, from what the stages became."""

from __future__ import annotations

from typing import Any

from kdgraph.importers._draft import Draft, Line
from kdgraph.importers._tagged import At
from kdgraph.importers._torchdistill.data import Rows
from kdgraph.importers._torchdistill.stages import Stage
from kdgraph.importers._torchdistill.terms import refused
from kdgraph.importers._write import flow
from kdgraph.importers.base import Left
from kdgraph.spec.data import DATA


def write_training(stages: list[Stage], train: At, rows: Rows, draft: Draft) -> None:
    """Fills ``stages``, ``train`` and the rest of ``data``."""
    kept = [s for s in stages if s.edges]
    for stage in stages:
        if not stage.edges:
            why = "none of its losses is an edge here"
            draft.differs(stage.at, f"the stage {stage.name}", why)
            draft.missing.setdefault("stages", []).append(f"{stage.name} is left out: {why}")
    first = kept[0]
    loading = {"batch_size": first.batch_size, "workers": first.workers}
    loading = {key: value for key, value in loading.items() if value is not None}
    if draft.data is not None:
        draft.data.value |= loading
        if (refusal := refused(DATA, draft.data.value)) is not None:
            draft.missing.setdefault("data", []).append(f"data is left out: {refusal}")
            draft.left.append(Left("datasets", "the block data", refusal))
            draft.data = None
    else:  # what a block by hand would say beside the data set
        sketch = flow({"use": "...", **rows.keys, **loading})
        draft.missing.setdefault("data", []).append(f"data: {sketch}")
    frozen = any(_frozen(s) for s in kept)
    if len(kept) > 1 or frozen:
        for index, stage in enumerate(kept):
            others = [s for i, s in enumerate(kept) if i != index]
            later = kept[index + 1 :]
            draft.stages.append(Line(_stage(stage, first, others, bool(later), draft)))
    elif "teacher" in draft.models and first.sides["teacher"].trainable:
        draft.models["teacher"].trainable = True
        draft.models["teacher"].remarks.append("it is trained, too: the file does not freeze it")
    if len(kept) == 1 and not first.sides["student"].trainable:
        draft.models["student"].trainable = False
    _train(first, kept, train, draft)


def _frozen(stage: Stage) -> list[str]:
    """Modules that ``freeze`` names, of models that are trained else."""
    return [
        f"{side.role}.{path}"
        for side in stage.sides.values()
        if side.trainable
        for path in side.frozen
    ]


def _stage(
    stage: Stage, first: Stage, others: list[Stage], later: bool, draft: Draft
) -> dict[str, Any]:
    """An entry of ``stages``."""
    value: dict[str, Any] = {"name": stage.name, "epochs": stage.epochs}
    off = dict.fromkeys(e for s in others for e in s.edges if e not in stage.edges)
    trained = {
        role: side.trainable
        for role, side in stage.sides.items()
        if role in draft.models and side.trainable != (role == "student")
    }
    parts: dict[str, Any] = {
        "trainable": trained,
        "losses": dict.fromkeys(off, 0),
        "optimizer": stage.optimizer if stage is not first else None,
        "scheduler": stage.scheduler if stage is not first else None,
        "batch_size": stage.batch_size if stage.batch_size != first.batch_size else None,
    }
    if frozen := _frozen(stage):
        parts["before"] = [{"use": "freeze", "modules": frozen}]
        if later:
            parts["after"] = [{"use": "unfreeze", "modules": frozen}]
    return value | {key: part for key, part in parts.items() if part}


def _train(first: Stage, kept: list[Stage], train: At, draft: Draft) -> None:
    """The ``train`` block, of the first stage; others say themselves what is not the same."""
    log = train.get("log_freq")
    if first.optimizer is None:
        draft.missing.setdefault("train", []).append(
            f"a `train` block needs an optimiser; it would say epochs: {first.epochs}"
        )
        return
    value: dict[str, Any] = {"epochs": first.epochs, "optimizer": first.optimizer}
    if first.scheduler is not None:
        value["scheduler"] = first.scheduler
        for stage in kept[1:]:
            if stage.scheduler is None:
                why = "a stage without a schedule has that of `train` here"
                draft.differs(stage.at, "no schedule", why)
    for stage in kept[1:]:
        if stage.train != first.train:
            why = "gradients are clipped and accumulated alike in all stages"
            draft.differs(stage.at, "clipping or accumulation", why)
    value |= {key: v for key, v in first.train.items() if v != 1}
    if log is not None:
        value["log_every"] = log.count()
        draft.carry(log, "train.log_every")
    draft.train = Line(value)
