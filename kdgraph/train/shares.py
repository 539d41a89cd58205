"""Weights of edges that are left when others go: they add up to 1 again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import isclose
from typing import Any

from kdgraph.signals.affine import Affine
from kdgraph.signals.number import Number
from kdgraph.spec.language import Spec
from kdgraph.spec.steer import Schedule, Steered

_ONE = ""  # the name of the constant in a sum


def in_shares(spec: Spec, edges: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Affine]]:
    """Edges whose weights are divided by their sum, and the signals that this takes.

    The sum may be one number although its parts are not, as with ``0.4 x`` and ``0.4 (1 - x)``.
    A single edge has the weight 1, also where training would move it, and weights that all are 0
    become equal. Where the sum depends on the batch (on the sample, say), or that of several edges
    moves with training, the weights stay as they are.
    """
    if len(edges) == 1:
        ((name, edge),) = edges.items()
        if _of_batch(spec, edge.weight):
            return dict(edges), {}
        return {name: edge.model_copy(update={"weight": 1.0})}, {}
    whole: Counter[str] = Counter()
    for name, edge in edges.items():
        whole.update(_parts(spec, edge.weight, name))
    total = whole.pop(_ONE, 0.0)
    if any(abs(part) > 1e-9 for part in whole.values()):
        return dict(edges), {}
    if total <= 0:
        return {n: e.model_copy(update={"weight": 1 / len(edges)}) for n, e in edges.items()}, {}
    found: dict[str, Any] = {}
    signals: dict[str, Affine] = {}
    for name, edge in edges.items():
        weight = edge.weight
        if isclose(total, 1):
            pass
        elif isinstance(weight, str):
            share = _unused(spec, f"{name}_share")
            signals[share] = Affine(of=weight, scale=1 / total)
            weight = share
        else:
            weight = weight / total
        found[name] = edge.model_copy(update={"weight": weight})
    return found, signals


def _of_batch(spec: Spec, weight: Steered) -> bool:
    """Whether a weight depends on the batch; else on numbers and schedules alone."""
    if not isinstance(weight, str):
        return False
    if (signal := spec.signals.get(weight)) is None:
        return True
    return any(_of_batch(spec, of) for _, of in signal.references())


def _parts(spec: Spec, weight: Steered, edge: str) -> dict[str, float]:
    """A weight as a sum of a constant and of multiples of what only a step can tell, by name."""
    if isinstance(weight, Schedule):
        return {f"schedule of {edge}": 1.0}
    if isinstance(weight, float):
        return {_ONE: weight}
    signal = spec.signals.get(weight)
    if isinstance(signal, Number) and isinstance(signal.value, float):
        return {_ONE: signal.value}
    if not isinstance(signal, Affine) or signal.clamp is not None:
        return {weight: 1.0}
    if not isinstance(signal.scale, float) or not isinstance(signal.shift, float):
        return {weight: 1.0}
    inner = _parts(spec, signal.of, edge)
    scaled = {name: signal.scale * part for name, part in inner.items()}
    return scaled | {_ONE: scaled.get(_ONE, 0.0) + signal.shift}


def _unused(spec: Spec, name: str) -> str:
    taken = {*spec.batch, *spec.models, *spec.links, *spec.signals, *spec.losses}
    while name in taken:
        name += "_"
    return name
