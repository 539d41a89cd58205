"""All optional passes = none of them."""

from __future__ import annotations

from kdgraph.passes.base import PASSES
from kdgraph.verify._compare import stepped
from kdgraph.verify._subject import Subject
from kdgraph.verify.base import Finding, register_check

_ASKED = "precision"  # does what the spec says, and rounds on purpose


@register_check("passes")
def run(subject: Subject) -> Finding:
    """Pruning, merging, folding and fusing change nothing but how numbers are rounded."""
    optional = [name for name, p in PASSES.items() if p.default and name != _ASKED]
    found = stepped(subject.step(), subject.batch())
    plain = stepped(subject.step(without=optional), subject.batch())
    return Finding(
        f"all {len(optional)} optional passes = none of them",
        found.gaps(plain), subject.rounding, ("in train mode, with the same random numbers",),
    )  # fmt: skip
