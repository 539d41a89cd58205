"""The spec of one stage, as if it had been written by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdgraph.errors import Diagnostic, KDGraphError, Span, near
from kdgraph.spec.entry import ActionEntry, Entry
from kdgraph.spec.language import Spec
from kdgraph.spec.stages import PhaseSpec, StageSpec
from kdgraph.spec.steer import Schedule
from kdgraph.spec.tree import Keys, Places


def stage_of(spec: Spec, leg: str) -> StageSpec:
    """The stage that a leg, ``STAGE`` or ``STAGE.PHASE``, is a part of.

    Raises:
        KDGraphError: KD202 for a leg that there is not.
    """
    for stage in spec.stages:
        if leg in stage.legs:
            return stage
    known = [name for stage in spec.stages for name in stage.legs]
    raise KDGraphError.of(
        "KD202",
        f"the spec has no stage {leg!r}" if known else "the spec has no stages",
        span=spec.span("stages"),
        help=near(leg, known) or (f"there is {', '.join(known)}" if known else None),
    )


def at_stage(spec: Spec, leg: str) -> Spec:
    """What is trained in one leg: weights and trained models as it says, no other stages.

    Edges whose weight is the number 0 are gone. Places lead to where the stage was written.
    """
    stage = stage_of(spec, leg)
    at = spec.stages.index(stage)
    parts: list[tuple[Keys, StageSpec | PhaseSpec]] = [(("stages", at), stage)]
    if stage.phases:
        turn = stage.legs.index(leg)
        parts.append((("stages", at, "phases", turn), stage.phases[turn]))
    weights: dict[str, Any] = {}
    trainable: dict[str, bool] = {}
    values: dict[Keys, Span | None] = dict(spec._places.values)
    for keys, level in parts:
        weights |= level.losses
        trainable |= level.trainable
        for name in level.losses:
            values[("losses", name, "weight")] = values.get((*keys, "losses", name))
        for name in level.trainable:
            values[("models", name, "trainable")] = values.get((*keys, "trainable", name))
    losses = {
        name: loss.model_copy(update={"weight": weights[name]}) if name in weights else loss
        for name, loss in spec.losses.items()
        if weights.get(name, loss.weight) != 0
    }
    models = {
        name: model.model_copy(update={"trainable": trainable[name]})
        if name in trainable else model
        for name, model in spec.models.items()
    }  # fmt: skip
    needed = _needed(spec, losses)
    found = spec.model_copy(
        update={
            "losses": losses,
            "models": models,
            "links": {n: link for n, link in spec.links.items() if n in needed},
            "signals": {n: signal for n, signal in spec.signals.items() if n in needed},
            "stages": (),
            "train": _train(spec, stage),
            "data": _data(spec, stage),
        }
    )
    found._leg = leg
    if stage.batch_size is not None:
        found._batch_from = f"batch_size of stage {stage.name!r}"
    found._places = Places({k: v for k, v in values.items() if v is not None}, spec._places.keys)
    return found


def schedules(spec: Spec, *, weights: bool = True) -> Iterator[tuple[str, Schedule]]:
    """Every number that a schedule moves, as ``losses.soft.tau``.

    Args:
        spec: a whole one, or that of a leg.
        weights: whether the weights of loss edges are among them.
    """
    for part, entries in (("losses", spec.losses), ("signals", spec.signals)):
        for name, entry in entries.items():
            for field in entry.steer_fields():
                value = getattr(entry, field)
                if isinstance(value, Schedule) and (
                    weights or (part, field) != ("losses", "weight")
                ):
                    yield f"{part}.{name}.{field}", value


def epochs_of(spec: Spec, model: str) -> int:
    """Passes over the data in which a model is trained, over all stages; turns count in part."""
    assert spec.train is not None
    if not spec.stages:
        return spec.train.epochs
    whole = 0.0
    for stage in spec.stages:
        learns = [at_stage(spec, leg).is_trainable(model) for leg in stage.legs]
        turns = [phase.steps or phase.epochs or 1 for phase in stage.phases] or [1]
        own = sum(turn for turn, on in zip(turns, learns, strict=True) if on)
        whole += stage.length(spec.train.epochs) * own / sum(turns)
    return max(1, round(whole))


def _needed(spec: Spec, losses: Mapping[str, Entry]) -> set[str]:
    """The links and signals that edges read, directly or through others."""
    found: set[str] = set()
    waiting = [ref for loss in losses.values() for _, ref in loss.references()]
    while waiting:
        name = waiting.pop().partition(".")[0]
        if name in found:
            continue
        found.add(name)
        if name in spec.signals:
            waiting += [ref for _, ref in spec.signals[name].references()]
        elif name in spec.links:
            waiting += [spec.links[name].student, spec.links[name].teacher]
    return found


def levels(spec: Spec) -> Iterator[tuple[Keys, StageSpec | PhaseSpec]]:
    """Every stage and every phase, with its keys."""
    for at, stage in enumerate(spec.stages):
        yield ("stages", at), stage
        for turn, phase in enumerate(stage.phases):
            yield ("stages", at, "phases", turn), phase


def _data(spec: Spec, stage: StageSpec) -> Any:
    """The ``data`` block of a stage, with its batch size."""
    if spec.data is None or stage.batch_size is None:
        return spec.data
    return spec.data.model_copy(update={"batch_size": stage.batch_size})


def _train(spec: Spec, stage: StageSpec) -> Any:
    """The ``train`` block of a stage.

    One that does not train what is scored neither ends early nor keeps the best by itself: the
    metric says nothing of what it trains.
    """
    if spec.train is None:
        return None
    scored = "student" if "student" in spec.models else min(spec._learning, default="")
    parts: list[StageSpec | PhaseSpec] = [stage, *stage.phases]
    trains = any(part.trainable.get(scored, spec.is_trainable(scored)) for part in parts)
    own: Mapping[str, Any] = {
        "epochs": stage.length(spec.train.epochs),
        "early_stop": stage.early_stop or (spec.train.early_stop if trains else None),
        "optimizer": stage.optimizer or spec.train.optimizer,
        "scheduler": stage.scheduler or spec.train.scheduler,
        "keep": stage.keep or (spec.train.keep if trains else "last"),
    }
    return spec.train.model_copy(update=own)


def learning(spec: Spec) -> frozenset[str]:
    """The networks that some stage trains."""
    names = {name for name in spec.networks if spec.is_trainable(name)}
    for _, level in levels(spec):
        names |= {name for name in level.trainable if level.trainable[name]}
    return frozenset(spec.network(name) for name in names if name in spec.models)


def touched(spec: Spec) -> frozenset[str]:
    """The networks that actions of some stage are done to."""
    found = {
        model
        for stage in spec.stages
        for _, action in actions(stage)
        for keys, model in targets(action)
        if keys[0] not in action.read_fields()
    }
    return frozenset(spec.network(name) for name in found if name in spec.models)


def actions(stage: StageSpec) -> Iterator[tuple[tuple[str, int], ActionEntry]]:
    """The actions of a stage, each with its keys inside of it."""
    for place in ("before", "during", "after"):
        for at, action in enumerate(getattr(stage, place)):
            if isinstance(action, ActionEntry):
                yield (place, at), action


def targets(action: ActionEntry) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The models that an action names, each with its keys inside of it."""
    for field in action.model_fields_named():
        value = getattr(action, field)
        if isinstance(value, str):
            yield (field,), value.partition(".")[0]
        elif value is not None:
            for at, pattern in enumerate(value):
                yield (field, at), pattern.partition(".")[0]


def check_stages(spec: Spec, places: Places) -> Iterator[Diagnostic]:
    """KD203 for two stages of one name, KD216 for stages that train nothing."""
    seen: set[str] = set()
    for at, stage in enumerate(spec.stages):
        keys: Keys = ("stages", at)
        if stage.name in seen:
            place = places.value((*keys, "name"))
            yield Diagnostic("KD203", f"two stages are called {stage.name!r}", place)
            continue
        seen.add(stage.name)
        for leg in stage.legs:
            own = at_stage(spec, leg)
            if not own.losses:
                message = f"stage {leg!r} has no loss edge left"
                yield Diagnostic("KD216", message, places.key((*keys, "losses")))
            if not any(map(own.is_trainable, spec.models)):
                message = f"stage {leg!r} trains no model"
                yield Diagnostic("KD216", message, places.key((*keys, "trainable")))
