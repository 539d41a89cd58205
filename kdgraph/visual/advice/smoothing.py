"""Smoothing: label smoothing beside a soft target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdgraph.errors import Diagnostic
from kdgraph.visual.advice.base import Say, Sight, register_advice


@register_advice("smoothing", "KD604")
def run(sight: Sight, say: Say) -> Iterator[Diagnostic]:
    """Label smoothing and a soft target on the same logits.

    Both give other classes a share. Smoothing gives each the same, which takes away from what a
    teacher tells of them (Müller, Kornblith, Hinton 2019, arXiv 1906.02629). Targets without a
    teacher behind them, such as virtual ones, are left aside.
    """
    edges = sight.edges
    for name, edge in edges.items():
        share = getattr(edge, "smoothing", 0)
        if not share:
            continue
        soft = [
            n
            for n, other in edges.items()
            if other.teaches_as is not None
            and getattr(other, "student", None) == edge.student
            and _has_teacher(sight, other)
        ]
        if soft:
            targets = " and ".join(repr(n) for n in soft)
            yield say(
                f"{name!r} smooths its labels by {share:g}, and {targets} gives "
                f"{edge.student!r} a soft target: what the one spreads evenly hides what the other "
                "tells of the classes",
                sight.spec.span("losses", name, "smoothing"),
                "leave `smoothing` out, unless the paper that you follow has both",
            )


def _has_teacher(sight: Sight, edge: Any) -> bool:
    """Whether a target is made of more than labels and the logits that learn from it."""
    ref = getattr(edge, "teacher", None) or getattr(edge, "target", None)
    if not isinstance(ref, str):
        return False
    batch = sight.spec.batch
    made_of = sight.behind(ref) - sight.behind(edge.student)
    return any(r not in batch or batch[r].dtype.startswith(("float", "bfloat")) for r in made_of)
