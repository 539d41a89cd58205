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

    Followed are the signals ``probabilities`` and ``logits``, and those that leave temperatures
    alone, up to models' taps, and the edge's own ``tau`` and ``tau_student``. A loss that makes
    probabilities of logits is told of where it is given probabilities, and one that takes
    probabilities where a signal gives it logits. Temperatures that move are compared only where
    each side has one.
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
                "read the logits themselves, or a signal `use: logits` of them; what takes a "
                "target's probabilities as they are is `use: soft_cross_entropy`",
            )
            continue
        gives = getattr(sight.spec.signals.get(getattr(edge, side)), "gives", None)
        if edge.teaches_as == "probabilities" and gives == "logits":
            ref = getattr(edge, side)
            yield say(
                f"{name!r} takes probabilities as they are, but {ref!r} holds logits, at no "
                f"temperature, beside the student at tau {_shown(edge.tau)}",
                sight.spec.span("losses", name, side),
                "read a signal `use: probabilities` of them with the same `tau`, or write "
                "`use: soft_target`, which takes logits",
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


_SCALING = ("probabilities", "logits")
_KEEPING = ("detach", "ensemble", "regularise", "select_classes")  # those with a tau undo it


@dataclass(frozen=True)
class _Tempered:
    """What stands behind a reference: taps' logits at a temperature."""

    tau: Any
    through: bool = False  # some signal changed it


def _twice(sight: Sight, edge: Any, sides: tuple[str, ...]) -> str | None:
    """The side that holds probabilities though the loss takes logits."""
    signals: dict[str, Any] = sight.spec.signals
    for side in sides if edge.teaches_as == "logits" else ("student",):
        signal = signals.get(getattr(edge, side))
        while signal is not None and signal.use == "detach":
            signal = signals.get(signal.of)
        if getattr(signal, "gives", None) == "probabilities":
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
    """At which temperature a value holds taps' logits; None where that is not known."""
    signal: Any = sight.spec.signals.get(ref)
    if signal is None:
        return _Tempered(1.0) if ref.partition(".")[0] in sight.spec.models else None
    if signal.use not in _SCALING and signal.use not in _KEEPING:
        return None
    members = signal.of if signal.use == "ensemble" else (signal.of,)
    first, *others = (_behind(sight, member) for member in members)
    if first is None or any(other != first for other in others):
        return None
    tau = first.tau
    if signal.use in _SCALING:
        tau = _times(tau, signal.tau, divided=signal.use == "logits")
    return _Tempered(tau, through=True)


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
