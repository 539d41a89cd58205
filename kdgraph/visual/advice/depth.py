"""Depth: a link between places that are not alike."""

from __future__ import annotations

from collections.abc import Iterator

from kdgraph.errors import Diagnostic, Span
from kdgraph.graph.reach import Reach
from kdgraph.spec.types import SIDES
from kdgraph.visual.advice.base import Say, Sight, register_advice

_APART = 0.4  # stages of one number lie up to 0.31 apart: layer2 of ResNet-101 and of ResNet-18
_TIMES = 5.0  # 4.1 times between features.23 of VGG-16 and blocks.5 of EfficientNet-B0
_END = 0.95  # outputs: nothing else could be paired


@register_advice("depth", "KD601", needs="reach")
def run(sight: Sight, say: Say) -> Iterator[Diagnostic]:
    """A link across very different depth or receptive field.

    Depth is the share of a model's forward FLOPs that are done; the receptive field is the
    effective one, over the size of the input (``kdgraph.graph.reach``). Pairs are the sides of
    links, and taps that an edge reads as ``student`` and ``teacher``. Told of are those that lie
    more than 0.4 of depth apart, or of which one sees more than 5 times what the other sees; not
    the outputs of both models.
    """
    for what, span, student, teacher in _pairs(sight):
        ours, theirs = sight.reach.get(student), sight.reach.get(teacher)
        if ours is None or theirs is None or not (why := _unlike(ours, theirs)):
            continue
        yield say(
            f"{what} pairs {why}: {student!r} {_words(ours)}, {teacher!r} {_words(theirs)}",
            span,
            "pair taps of like depth; `kdgraph explain` has the depth of each, `kdgraph taps` "
            "what else can be tapped",
        )


def _pairs(sight: Sight) -> Iterator[tuple[str, Span | None, str, str]]:
    """What pairs two taps, where that is written, and the taps."""
    spec = sight.spec
    for name, link in spec.links.items():
        yield f"link {name!r}", spec.span("links", name), link.student, link.teacher
    seen = set()
    for name, edge in sight.edges.items():
        sides = [getattr(edge, side, None) for side in SIDES]
        if all(isinstance(ref, str) and ref.partition(".")[0] in spec.models for ref in sides):
            student, teacher = (str(ref) for ref in sides)
            if (student, teacher) not in seen:
                seen.add((student, teacher))
                yield f"{name!r}", spec.span("losses", name, "teacher"), student, teacher


def _unlike(ours: Reach, theirs: Reach) -> str:
    """In what two places differ much; nothing where they do not."""
    if ours.depth is None or theirs.depth is None or min(ours.depth, theirs.depth) > _END:
        return ""
    found = ["depth"] if abs(ours.depth - theirs.depth) > _APART else []
    if ours.field and theirs.field:
        wide, narrow = max(ours.field, theirs.field), min(ours.field, theirs.field)
        found += ["receptive field"] if wide > _TIMES * narrow else []
    return f"very different {' and '.join(found)}" if found else ""


def _words(reach: Reach) -> str:
    sees = "" if reach.field is None else f" and sees {reach.field:.0%} of the input"
    return f"lies behind {reach.depth or 0:.0%} of its model's FLOPs{sees}"
