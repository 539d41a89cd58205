"""What keeps two computations apart by nature: chance, statistics of a batch, company in it."""

from __future__ import annotations

from collections.abc import Iterator

from kdgraph.losses.base import RowLoss
from kdgraph.spec.language import Spec


def calm(spec: Spec) -> tuple[Spec, list[str]]:
    """The spec without what frozen models draw, or take of the batch; and what that was."""
    changed, notes = {}, []
    for name, model in spec.models.items():
        off = {key: False for key in ("dropout", "batch_statistics") if getattr(model, key)}
        if off:
            changed[name] = model.model_copy(update=off)
            notes.append(f"{' and '.join(off)} of {name!r} off")
    return spec.model_copy(update={"models": {**spec.models, **changed}}), notes


def by_row(spec: Spec) -> tuple[Spec, list[str]]:
    """The spec without edges that see how rows are put together; and which they are."""
    apart = dict(_apart(spec))
    if not apart:
        return spec, []
    losses = {name: loss for name, loss in spec.losses.items() if name not in apart}
    notes = [f"left out, as by nature not equal: {_listed(apart)}"]
    return spec.model_copy(update={"losses": losses}), notes


def _apart(spec: Spec) -> Iterator[tuple[str, str]]:
    """Edges that compare rows with each other, or read a signal that does, with the reason."""
    for name, loss in spec.losses.items():
        if not isinstance(loss, RowLoss):
            yield name, f"{loss.use} compares rows"
        elif signal := next(_joint(spec, [ref for _, ref in loss.references()]), None):
            yield name, f"signal {signal} reads rows together"


def _joint(spec: Spec, references: list[str]) -> Iterator[str]:
    """Signals behind references that read rows together."""
    seen: set[str] = set()
    while references:
        name, _, side = references.pop().partition(".")
        if name in seen:
            continue
        if name in spec.signals:
            seen.add(name)
            references += [ref for _, ref in spec.signals[name].references()]
            if not spec.signals[name].by_row():
                yield name
        elif name in spec.links:
            references.append(getattr(spec.links[name], side))


def _listed(edges: dict[str, str]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in edges.items())
