"""From the ``data`` block to parts whose columns are the batch entries of the spec."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from kdgraph.errors import DataError, Diagnostic, near
from kdgraph.spec.language import Spec
from kdgraph.train.data._batches import Batches
from kdgraph.train.data._classes import out_of_order, select_classes
from kdgraph.train.data._split import Split, draw, draw_shots, seeded
from kdgraph.train.data.base import DataSet, Splits
from kdgraph.train.data.transforms.base import Transform
from kdgraph.train.score import find_score


def open_data(spec: Spec, trust: Collection[str] = ()) -> tuple[DataSet, Splits]:
    """Loads the data of a spec and checks that it holds what the spec's batch needs.

    Raises:
        DataError: KD717 no ``data`` block; KD711 names that do not fit; KD719 what is not usable;
            what ``load`` raises, with its place.
    """
    if not isinstance(spec.data, DataSet):
        raise DataError.of(
            "KD717",
            "the spec has no `data` block to train on",
            span=spec.span(),
            help="write `data: {use: digits}`, say; `kdgraph list data` shows every data set",
        )
    data = spec.data
    try:
        splits = data.load(spec.folder, trust)
        if data.select_classes is not None:
            splits = select_classes(splits, data.select_classes)
    except DataError as error:
        place = spec.span("data")
        raise DataError(replace(d, span=d.span or place) for d in error.diagnostics) from error
    for name in ("train", "val", "test"):
        part = getattr(splits, name)
        if part is not None and len(part) == 0:
            message = f"the {name} part of {data.use} is empty"
            raise DataError.of("KD719", message, span=spec.span("data"))
    _check_columns(spec, data, splits.train)
    if data.limit is not None and data.limit < len(splits.train):
        kept, _ = draw(splits.train, data.limit, "limit", data.split_seed)
        splits = replace(splits, train=splits.train.subset(kept))
    if data.shots is not None:
        splits = _few(spec, data, splits, data.shots)
    return data.model_copy(update={"transforms": _fitted(spec, data, splits.train)}), splits


def _few(spec: Spec, data: DataSet, splits: Splits, shots: int) -> Splits:
    """The same parts with ``shots`` training rows of each class.

    Raises:
        DataError: KD719 when there are no class numbers to draw by, or too few rows of a class.
    """
    place = spec.span("data", "shots")
    labels = splits.train.labels()
    if labels is None or labels.dim() != 1 or labels.is_floating_point():
        message = "shots needs a column `label` of class numbers that is at hand without "
        raise DataError.of("KD719", f"{message}reading every row", span=place)
    entry = spec.batch.get("label")
    known = entry.classes if entry is not None else None
    classes = torch.unique(labels).tolist() if known is None else range(known)
    try:
        kept = draw_shots(labels, shots, classes, "shots", data.split_seed)
    except DataError as error:
        raise DataError(replace(d, span=place) for d in error.diagnostics) from error
    rows = "row" if shots == 1 else "rows"
    note = f"{splits.note}; {shots} training {rows} of each class"
    return replace(splits, train=splits.train.subset(kept), note=note)


def _fitted(spec: Spec, data: DataSet, train: Split) -> tuple[Transform, ...]:
    """The transforms, with what they take from the training rows, tried on the first row."""
    fitted = data.steps()
    batch = Batches(train, None)[0, 0, [0]]
    for at, transform in _in_order(data):
        try:
            fitted[at] = transform.fitted(train)
            batch = fitted[at].apply(batch, seeded("tried"))
        except DataError as error:
            place = spec.span("data", "transforms", at)
            raise DataError(replace(d, span=place) for d in error.diagnostics) from error
    return tuple(fitted)


def _in_order(data: DataSet) -> list[tuple[int, Transform]]:
    """The transforms and their places in the list; views come first, as when a batch is made."""
    return sorted(enumerate(data.steps()), key=lambda step: not step[1].views())


def _check_columns(spec: Spec, data: DataSet, train: Split) -> None:
    read = train.columns
    columns, wrong = _transformed_columns(spec, data, read)
    known = f"{data.use} has {', '.join(read)}"
    wrong += [
        Diagnostic(
            "KD711",
            f"the data set {data.use!r} has no column for the batch entry {name!r}",
            spec.span("batch", name),
            near(name, columns) or known,
        )
        for name in spec.batch
        if name not in columns and not wrong  # it may be one that a transform would have added
    ]
    for key in ("augment", "normalise"):
        block = getattr(data, key)
        if block is not None and block.entry not in read:
            message = f"`{key}` speaks of {block.entry!r}"
            wrong.append(Diagnostic("KD711", message, spec.span("data", key), known))
    wrong += _left_behind(spec, data, read) + _moved_away(spec, data)
    wrong += _not_taken(spec, data) + _miscounted(spec, data)
    wrong += out_of_order(spec, data.select_classes or ())
    if wrong:
        raise DataError(wrong)
    _check_evaluation(spec, read)


def _not_taken(spec: Spec, data: DataSet) -> list[Diagnostic]:
    """Added columns that are lost: with MixUp's, images would be mixed and labels not."""
    steps = data.steps()
    taken = {*spec.batch, *(of for step in steps for of in step.views().values())}
    return [
        Diagnostic(
            "KD711",
            f"{step.use} adds {name!r}, a column that no batch entry takes",
            spec.span("data", "transforms", at),
            f"write an entry `{name}` in `batch`, or leave {step.use} out",
        )
        for at, step in enumerate(steps)
        for name in step.adds()
        if name not in taken
    ]


def _miscounted(spec: Spec, data: DataSet) -> list[Diagnostic]:
    """Labels of fewer classes than their batch entry says, or of more."""
    entry = spec.batch.get("label")  # the column that `select_classes` numbers anew
    left = len(data.select_classes or ())
    if not left or entry is None or entry.classes in (None, left):
        return []
    message = f"`select_classes` leaves {left} classes, but the batch entry 'label' has"
    place = spec.span("batch", "label", "classes")
    help = f"write `classes: {left}`"
    return [Diagnostic("KD711", f"{message} {entry.classes}", place, help)]


def _left_behind(spec: Spec, data: DataSet, read: tuple[str, ...]) -> list[Diagnostic]:
    """What is wrong with label maps that ``augment`` should move with their images, or does."""
    augment = data.augment
    if augment is None or augment.entry not in spec.batch:
        return []
    place = spec.span("data", "augment")
    if augment.labels is None:
        message = f"`augment` moves {augment.entry!r}, but not its label maps"
        maps = _label_maps(spec, augment.entry) if augment.shift or augment.flip else []
        return [
            Diagnostic("KD711", f"{message} {name!r}", place, f"write `labels: {name}` in it")
            for name in maps
        ]
    if augment.labels not in read:
        help = near(augment.labels, read) or f"{data.use} has {', '.join(read)}"
        return [Diagnostic("KD711", f"`augment` speaks of {augment.labels!r}", place, help)]
    if any(augment.entry in t.views().values() for t in data.steps()):
        message = f"views of {augment.entry!r} are moved each by itself, label maps only with it"
        return [Diagnostic("KD711", message, place, "leave out the views, or `augment`")]
    return []


def _moved_away(spec: Spec, data: DataSet) -> list[Diagnostic]:
    """Label maps of images that a transform moves, which none can move alike."""
    moved: dict[str, int] = {}  # by which transform
    for at, transform in _in_order(data):
        moved |= dict.fromkeys(transform.moves(), at)
        moved |= {name: moved[of] for name, of in transform.views().items() if of in moved}
    steps = data.steps()
    return [
        Diagnostic(
            "KD711",
            f"{steps[at].use} moves {image!r}, but not its label maps {name!r}",
            spec.span("data", "transforms", at),
            f"only `augment` moves both alike, with `labels: {name}`",
        )
        for image, at in moved.items()
        for name in _label_maps(spec, image)
    ]


def _label_maps(spec: Spec, image: str) -> list[str]:
    """The batch entries [B, H, W] of classes that lie upon images [B, C, H, W]."""
    shape = spec.batch[image].shape if image in spec.batch else ()
    return [
        name
        for name, entry in spec.batch.items()
        if entry.dtype.startswith(("int", "uint"))
        and len(shape) == 4
        and entry.shape == (shape[0], *shape[2:])
    ]


def _transformed_columns(
    spec: Spec, data: DataSet, read: tuple[str, ...]
) -> tuple[tuple[str, ...], list[Diagnostic]]:
    """The columns of a training batch, and what is wrong with the transforms."""
    columns, wrong = read, []
    for at, transform in _in_order(data):
        try:
            columns += transform.columns(columns)
        except DataError as error:
            place = spec.span("data", "transforms", at)
            wrong += [replace(d, span=place) for d in error.diagnostics]
    return columns, wrong


def _check_evaluation(spec: Spec, read: tuple[str, ...]) -> None:
    """What is scored is run on data that no transform has seen."""
    score = find_score(spec)
    inputs = [score.inputs] if isinstance(score.inputs, str) else list(score.inputs.values())
    for name in [*inputs, score.target]:
        if name not in read:
            raise DataError.of(
                "KD711",
                f"{name!r} comes from a transform, so it is not there at evaluation",
                span=spec.span("batch", name),
                help=f"{score.model!r} is scored on what the data set itself has",
            )
