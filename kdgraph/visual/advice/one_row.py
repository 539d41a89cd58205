"""One row: a loss between the rows of a batch that has only one."""

from __future__ import annotations

from collections.abc import Iterator

from kdgraph.errors import Diagnostic
from kdgraph.visual.advice.base import Say, Sight, register_advice


@register_advice("one_row", "KD605")
def run(sight: Sight, say: Say) -> Iterator[Diagnostic]:
    """A batch-dependent loss at batch 1: one that compares rows with each other."""
    if sight.rows != 1:
        return
    for name, edge in sight.edges.items():
        shape = sight.shape(getattr(edge, "student", ""))
        if shape is not None and edge.across_batch(shape):
            yield say(
                f"{name!r} ({edge.use}) compares the rows of a batch with each other, and the "
                "batch has 1 row: it teaches little or nothing",
                sight.spec.span("losses", name, "use"),
                "train with a larger `batch_size`; accumulating gradients does not help, as "
                "rows meet only within a batch",
            )
