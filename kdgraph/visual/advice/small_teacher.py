"""Small teacher: one with fewer parameters than its student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdgraph.errors import Diagnostic
from kdgraph.visual.advice.base import Say, Sight, register_advice

_STEERING = ("weight", "mask")


@register_advice("small_teacher", "KD606")
def run(sight: Sight, say: Say) -> Iterator[Diagnostic]:
    """A teacher of fewer parameters than the student.

    Several that teach by one edge are added up. Models that only say how much a row counts are no
    teachers. Those that actions change are left aside: they may have grafts, or lose channels.
    """
    told = set()
    for edge in sight.edges.values():
        read = [ref for keys, ref in edge.references() if keys[0] not in _STEERING]
        behind = {m for ref in read for m in sight.models_behind(ref)}
        networks = dict.fromkeys(sight.spec.network(m) for m in sight.spec.models if m in behind)
        teachers = tuple(n for n in networks if not sight.spec.is_learning(n))
        changed = any(sight.spec.is_acted_on(n) for n in networks)
        for student in (n for n in networks if sight.spec.is_trainable(n) and not changed):
            size, needed = _size(sight, teachers), _size(sight, [student])
            if not teachers or size >= needed or (teachers, student) in told:
                continue
            told.add((teachers, student))
            names = " and ".join(repr(n) for n in teachers)
            has, teacher = ("have", "teachers") if len(teachers) > 1 else ("has", "teacher")
            yield say(
                f"{teacher} {names} {has} {size:,} parameters, student {student!r} {needed:,}",
                sight.spec.span("models", teachers[0], "source"),
                "swap the two if they were mistaken for each other; a weak teacher helps as a "
                "regulariser at most (Yuan et al. 2020, arXiv 1909.11723)",
            )


def _size(sight: Sight, networks: Sequence[str]) -> int:
    root = sight.report.graph.root
    return sum(p.numel() for n in networks for p in root.get_submodule(f"models.{n}").parameters())
