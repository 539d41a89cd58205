"""Tau: a temperature on one side only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kdgraph.errors import Diagnostic
from kdgraph.spec.steer import Schedule
from kdgraph.visual.advice.base import Say, Sight, register_advice


@register_advice("tau", "KD602")
def run(sight: Sight, say: Say) -> Iterator[Diagnostic]:
    """A temperature that only one side of an edge has, or has twice.

    Followed are the signals ``probabilities`` and ``logits`` up to a model's tap, and the edge's
    own ``tau`` and ``tau_student``. A loss that makes probabilities of logits is told of where it
    is given probabilities. Temperatures that move are compared only where each side has one.
    """
    for name, edge in sight.edges.items():
        side = "teacher" if "teacher" in edge.ref_fields() else "target"
        if edge.teaches_as is None or not isinstance(getattr(edge, side, None), str):
            continue
        twice = _twice(sight, edge, ("student", side))
        if twice is not None:
            ref = getattr(edge, twice)
            yield say(
                f"{name!r} takes logits and makes probabilities of them at tau {_shown(edge.tau)}, "
                f"but {ref!r} holds probabilities: their softmax is nearly even",
                sight.spec.span("losses", name, twice),
                "read the logits themselves, a signal `use: logits` of them, or "
                "`use: soft_cross_entropy`, which takes probabilities as they are",
            )
            continue
        ours, theirs = _sides(sight, edge, side)
        if ours is not None and theirs is not None and _differ(edge, ours, theirs):
            yield say(
                f"{name!r} has tau {_shown(ours)} on the student's side and {_shown(theirs)} on "
                "the teacher's",
                sight.spec.span("losses", name, "tau"),
                "give both sides one temperature: equal sides have no gradient only then",
            )


@dataclass(frozen=True)
class _Tempered:
    """What stands behind a reference: a tap's logits at a temperature."""

    tau: Any
    through: bool = False  # some signal changed it


def _twice(sight: Sight, edge: Any, sides: tuple[str, ...]) -> str | None:
    """The side that holds probabilities though the loss takes logits."""
    signals: dict[str, Any] = sight.spec.signals
    for side in sides:
        signal = signals.get(getattr(edge, side))
        while signal is not None and signal.use == "detach":
            signal = signals.get(signal.of)
        if edge.teaches_as == "logits" and getattr(signal, "gives", None) == "probabilities":
            return side
    return None


def _sides(sight: Sight, edge: Any, side: str) -> tuple[Any, Any]:
    """The temperatures of the student's side and the teacher's, at which they meet."""
    own = getattr(edge, "tau_student", None)
    ours = _behind(sight, edge.student)
    theirs = _behind(sight, getattr(edge, side))
    if ours is None or theirs is None:
        return None, None
    if edge.teaches_as == "probabilities":
        made = theirs.tau if theirs.through else None
    else:
        made = _times(theirs.tau, edge.tau)
    return _times(ours.tau, edge.tau if own is None else own), made


def _behind(sight: Sight, ref: str) -> _Tempered | None:
    """At which temperature a value holds a tap's logits; None where that is not known."""
    chain: list[Any] = []
    signals: dict[str, Any] = sight.spec.signals
    while (signal := signals.get(ref)) is not None:
        if signal.use not in ("probabilities", "logits", "detach"):
            return None
        chain.append(signal)
        ref = signal.of
    if ref.partition(".")[0] not in sight.spec.models:
        return None
    tau: Any = 1.0
    for signal in reversed(chain):
        if signal.use != "detach":
            tau = _times(tau, signal.tau, divided=signal.use == "logits")
    return _Tempered(tau, bool(chain))


def _times(one: Any, other: Any, *, divided: bool = False) -> Any:
    """The product of two temperatures; None where it moves and is not one of them alone."""
    if one is None or other is None:
        return None
    if isinstance(one, float) and isinstance(other, float):
        return one / other if divided else one * other
    if one == 1.0 and not divided:
        return other
    if divided:
        return 1.0 if one == other else None
    return one if other == 1.0 else None


def _differ(edge: Any, ours: Any, theirs: Any) -> bool:
    """Whether one side alone is tempered; two temperatures that an edge itself has may differ."""
    if isinstance(ours, float) and isinstance(theirs, float):
        if abs(ours - theirs) <= 1e-6 * max(ours, theirs):
            return False
        return getattr(edge, "tau_student", None) is None or 1.0 in (ours, theirs)
    return bool(ours != theirs) and 1.0 in (ours, theirs)


def _shown(tau: Any) -> str:
    if isinstance(tau, Schedule):
        values = tau.values()
        return f"{values[0]:g} to {values[-1]:g}"
    return f"{tau:g}" if isinstance(tau, float) else repr(tau)
