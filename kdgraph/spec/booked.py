"""Specs that follow from a spec and a book: the training without teachers, the teachers alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from kdgraph.spec.entry import SIGNALS, Entry
from kdgraph.spec.frontier import readers
from kdgraph.spec.language import BatchEntry, LinkSpec, ModelSpec, Spec
from kdgraph.spec.legs import actions, targets
from kdgraph.spec.stages import PhaseSpec, StageSpec
from kdgraph.spec.tree import Places
from kdgraph.spec.types import SIDES

E = TypeVar("E", bound=Entry)
_EXACT = {"int64": "int64", "int32": "int32", "bool": "bool"}  # else read as float32
_PARTS = {"values": "float32", "ids": "int64", "tail": "float32"}  # of a top-k column


class Kept(Protocol):
    """A column of a book, as far as a spec is concerned (``kdgraph.book.Column``)."""

    @property
    def name(self) -> str:
        """The reference that it stands for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value of one row."""

    @property
    def dtype(self) -> str:
        """As what values are kept."""

    @property
    def k(self) -> int | None:
        """How many classes are kept; None where all values are."""


def book_entries(spec: Spec, columns: Iterable[Kept]) -> dict[str, str]:
    """The batch entries that ``with_book`` makes, by the names that ``Book.rows`` gives.

    ``teacher.logits`` becomes ``teacher_logits`` and a signal keeps its name; of a top-k column
    there are three, ``NAME_values``, ``NAME_ids`` and ``NAME_tail``. Where a name is taken, ``_``
    is put behind it.
    """
    taken = {*spec.batch, *spec.models, *spec.links, *spec.signals}
    found: dict[str, str] = {}
    for column in columns:
        base = column.name.replace(".", "_")
        for part in _PARTS if column.k else ("",):
            name = f"{base}_{part}" if part else base
            while name in taken and (part or name != column.name):
                name += "_"
            taken.add(name)
            found[f"{column.name}.{part}" if part else column.name] = name
    return found


def with_book(spec: Spec, columns: Collection[Kept]) -> Spec:
    """The spec in which values from a book are batch entries (``book_entries``).

    What reads a value reads the entry instead; a top-k column is made logits again by a signal.
    Models, signals, links and batch entries that nothing else needs are gone. Places lead to where
    the spec names what was kept.
    """
    entries = book_entries(spec, columns)
    names, made = dict(entries), {}
    for column in columns:
        if column.k:
            names[column.name], made[column.name] = _dense(spec, column, entries)
    signals = {n: renamed(s, names) for n, s in spec.signals.items() if n not in names}
    signals |= {names[ref]: signal for ref, signal in made.items()}
    losses = {n: renamed(x, names) for n, x in spec.losses.items()}
    links = {n: _joined(x, names) for n, x in spec.links.items()}
    changed: dict[str, Any] = {"losses": losses, "signals": signals, "links": links}
    changed["stages"] = tuple(_stage(s, names, spec.models) for s in spec.stages)
    found = spec.model_copy(update=changed)
    used = set(_used(found))
    kept = [n for n in spec.models if _stays(found, n, used)]
    changed["signals"] = {n: s for n, s in signals.items() if n in used}
    changed["links"] = {n: x for n, x in links.items() if n in used}
    changed["models"] = {n: _with_input(spec, n) for n in kept}
    changed["stages"] = tuple(_stage(s, names, changed["models"]) for s in spec.stages)
    changed["train"] = _train(spec, kept)
    changed["book"] = spec.book and spec.book.model_copy(update={"store": {}})
    old = {n: e for n, e in spec.batch.items() if n in _read(spec)}
    now = _read(spec.model_copy(update=changed))
    gone = {n for n in old if n not in now and not spec.batch[n].classes}
    changed["batch"] = {n: e for n, e in spec.batch.items() if n not in gone}
    changed["batch"] |= _batch(spec, columns, entries)
    found = spec.model_copy(update=changed)
    found._places = _places(spec, columns, entries)
    found._booked = frozenset(entries.values())
    return found


def teachers_side(spec: Spec, references: Collection[str]) -> Spec:
    """What gives the values of some references: models, signals, the batch entries they read.

    It has no losses, so that it is no whole spec.
    """
    used = set(_closure(spec, references))
    signals = {n: s for n, s in spec.signals.items() if n in used}
    own = {spec.network(n) for n in spec.models if n in used}
    models = {n: _with_input(spec, n) for n in spec.models if n in used or n in own}
    part = spec.model_copy(
        update={"models": models, "signals": signals, "links": {}, "losses": {}, "stages": ()}
    )
    read = _read(part)
    return part.model_copy(update={"batch": {n: e for n, e in spec.batch.items() if n in read}})


def renamed(entry: E, names: Mapping[str, str]) -> E:
    """A signal or loss that reads other names."""
    changed: dict[str, Any] = {}
    for field in (*entry.ref_fields(), *entry.steer_fields()):
        value = getattr(entry, field)
        if isinstance(value, str) and value in names:
            changed[field] = names[value]
        elif isinstance(value, tuple) and any(ref in names for ref in value):
            changed[field] = tuple(names.get(ref, ref) for ref in value)
    return entry.model_copy(update=changed) if changed else entry


def _dense(spec: Spec, column: Kept, entries: Mapping[str, str]) -> tuple[str, Any]:
    """The signal that makes logits of a top-k column, with its name."""
    own = {part: entries[f"{column.name}.{part}"] for part in _PARTS}
    name = column.name
    if "." in name:
        name = name.replace(".", "_")
        while name in {*spec.batch, *spec.models, *spec.links, *spec.signals, *entries.values()}:
            name += "_"
    return name, SIGNALS.get("top_k_logits")(**own, classes=column.shape[-1])


def _parts(column: Kept) -> list[str]:
    """The names of the parts of a top-k column."""
    return [f"{column.name}.{part}" for part in _PARTS]


def _joined(link: LinkSpec, names: Mapping[str, str]) -> LinkSpec:
    sides = {s: names[r] for s in SIDES if (r := getattr(link, s)) in names}
    return link.model_copy(update=sides) if sides else link


def _stage(stage: StageSpec, names: Mapping[str, str], models: Collection[str]) -> StageSpec:
    """A stage, and its phases, without models that are gone."""

    def own(level: StageSpec | PhaseSpec) -> dict[str, Any]:
        weights = {n: names.get(w, w) if isinstance(w, str) else w for n, w in level.losses.items()}
        learning = {n: learns for n, learns in level.trainable.items() if n in models}
        return {"losses": weights, "trainable": learning}

    phases = tuple(phase.model_copy(update=own(phase)) for phase in stage.phases)
    return stage.model_copy(update={**own(stage), "phases": phases})


def _used(spec: Spec) -> Iterator[str]:
    """The models, links, signals and batch entries that edges and actions need."""
    acts = (action for stage in spec.stages for _, action in actions(stage))
    yield from (model for action in acts for _, model in targets(action))
    yield from _closure(spec, readers(spec))


def _closure(spec: Spec, references: Iterable[str]) -> Iterator[str]:
    """Owners of references, and of what stands behind them."""
    seen: set[str] = set()
    waiting = list(references)
    while waiting:
        owner = waiting.pop().partition(".")[0]
        if owner in seen:
            continue
        seen.add(owner)
        yield owner
        if owner in spec.signals:
            waiting += [ref for _, ref in spec.signals[owner].references()]
        elif owner in spec.links:
            waiting += [getattr(spec.links[owner], side) for side in SIDES]


def _stays(spec: Spec, model: str, used: set[str]) -> bool:
    """Whether a model learns, or something needs it or another call of its network."""
    calls = [n for n in spec.models if spec.network(n) == spec.network(model)]
    network = spec.network(model) == model
    return not spec.is_constant(model) or model in used or (network and not used.isdisjoint(calls))


def _with_input(spec: Spec, model: str) -> ModelSpec:
    """A model that says what it reads, as the first batch entry may be another one now."""
    written = spec.models[model]
    if written.input is not None or written.same_as or written.snapshot_of:
        return written
    return written.model_copy(update={"input": spec.inputs(model)})


def _read(spec: Spec) -> set[str]:
    """The batch entries that models, signals, links and losses read."""
    found: set[str] = set()
    for name in spec.models:
        inputs = spec.inputs(name)
        found |= {inputs} if isinstance(inputs, str) else set(inputs.values())
    entries: list[Entry] = [*spec.signals.values(), *spec.losses.values()]
    return found | {ref for e in entries for _, ref in e.references()}


def _train(spec: Spec, kept: Collection[str]) -> Any:
    """The ``train`` block, which trains first what teachers are left."""
    block = spec.train.teacher if spec.train else None
    if spec.train is None or block is None:
        return spec.train
    named = block.models
    left = tuple(n for n in named or () if n in kept)
    frozen = any(n in kept for n in spec.networks if spec.is_constant(n))
    new = None
    if left if named is not None else frozen:
        new = block.model_copy(update={"models": left if named is not None else None})
    return spec.train.model_copy(update={"teacher": new})


def _batch(
    spec: Spec, columns: Iterable[Kept], entries: Mapping[str, str]
) -> dict[str, BatchEntry]:
    found: dict[str, BatchEntry] = {}
    for column in columns:
        rows = _rows(spec, column.name)
        if not column.k:
            dtype: Any = _EXACT.get(column.dtype, "float32")
            shape = (rows, *column.shape)
            found[entries[column.name]] = BatchEntry(shape=shape, dtype=dtype)
            continue
        for part, kind in _PARTS.items():
            last = () if part == "tail" else (column.k,)
            shape = (rows, *column.shape[:-1], *last)
            found[entries[f"{column.name}.{part}"]] = BatchEntry(shape=shape, dtype=kind)  # type: ignore[arg-type]
    return found


def _rows(spec: Spec, reference: str) -> int | str:
    """The first size of what a reference is made of: as a rule the letter of the batch."""
    read = _read(teachers_side(spec, [reference]))
    return next(e.shape[0] for n, e in spec.batch.items() if n in read)


def _places(spec: Spec, columns: Iterable[Kept], entries: Mapping[str, str]) -> Places:
    """Places of the spec, with those of what the book gives where it was named."""
    values, keys = dict(spec._places.values), dict(spec._places.keys)
    for column in columns:
        model, dot, tap = column.name.partition(".")
        path = ("models", model, "taps", tap) if dot else ("signals", model)
        place = spec._places.key(path)
        for given, entry in entries.items():
            if place is not None and given in (column.name, *_parts(column)):
                keys["batch", entry] = values["batch", entry] = place
    return Places(values, keys)
