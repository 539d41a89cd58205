"""Dominating: one edge that is nearly all of the loss."""

from __future__ import annotations

from collections.abc import Iterator

from kdgraph.errors import Diagnostic
from kdgraph.visual.advice.base import Say, Sight, register_advice

_SHARE = 0.95  # 19 times all others together


@register_advice("dominating", "KD603", needs="start")
def run(sight: Sight, say: Say) -> Iterator[Diagnostic]:
    """A loss that dominates at the start: weight times value over 19 times that of all others.

    Values are those of a step on random weights and a random batch. Edges whose weight is 0 at the
    start are left aside. A random teacher says next to nothing, so that its edges are worth more
    with a trained one: an edge of labels is told of only where all are of labels.
    """
    parts = sight.start.parts if sight.start is not None else {}
    parts = {n: p for n, p in parts.items() if p.weighted}
    if len(parts) < 2:
        return
    name, part = max(parts.items(), key=lambda item: item[1].share)
    if part.share <= _SHARE or (part.task and not all(p.task for p in parts.values())):
        return
    others = [f"{n} {p.weighted:.3g}" for n, p in parts.items() if n != name]
    shown = ", ".join(others if len(others) <= 6 else [*others[:5], f"{len(others) - 5} more"])
    weight = part.weighted / part.value if part.value else 0.0
    yield say(
        f"{name!r} dominates at the start: it adds {part.weighted:.3g} (weight {weight:.3g} times "
        f"{part.value:.3g}), which is {part.share:.1%} of the loss, beside {shown}",
        sight.spec.span("losses", name, "weight"),
        f"a weight of about {_even(weight, part.share):.2g} has it count as much as all others "
        "together; that was estimated with random weights, so look at the first epochs",
    )


def _even(weight: float, share: float) -> float:
    """The weight with which the edge is half of the sum."""
    return weight * (1 - share) / share
