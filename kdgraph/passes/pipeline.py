"""The order of the passes, readable as a page.

    resolve_taps      captured models          -> every tap is a named value
    derive_values     links, signals           -> link sides that fit, derived tensors
    attach_losses     losses, weights          -> one weighted total
    ... optional passes, each behind the one it names as ``after`` ...

What is mandatory stands here, because its order is meaning. Optional passes are found by the
registry; each can be switched off by name, and then the result differs only by rounding. Those
that are off unless asked for are named in ``also``.
"""

from __future__ import annotations

from collections.abc import Collection

from kdgraph.errors import KDGraphError, near
from kdgraph.passes import attach_losses, derive_values, resolve_taps
from kdgraph.passes.base import PASSES, Pass

MANDATORY = (
    Pass("resolve_taps", resolve_taps.run),
    Pass("derive_values", derive_values.run),
    Pass("attach_losses", attach_losses.run),
)

ACROSS = "across_ranks"  # asked for wherever several processes share a batch


def pipeline(without: Collection[str] = (), also: Collection[str] = ()) -> list[Pass]:
    """All passes in order, less the optional ones named in ``without``, and with ``also``.

    Raises:
        KDGraphError: KD202 for a name that is no optional pass.
    """
    optional = dict(PASSES.items())
    without = (without,) if isinstance(without, str) else without  # not its letters
    also = (also,) if isinstance(also, str) else also
    for name in (*without, *also):
        if name not in optional:
            hint = near(name, optional)
            known = ", ".join(sorted(optional))
            raise KDGraphError.of(
                "KD202", f"no optional pass is called {name!r}", help=hint or f"there are: {known}"
            )
    order = list(MANDATORY)
    waiting = list(optional.values())
    while waiting:
        placed = {p.name for p in order}
        ready = [p for p in waiting if p.after in placed]
        if not ready:
            raise ValueError(f"passes behind unknown passes: {[p.name for p in waiting]}")
        order += ready
        waiting = [p for p in waiting if p not in ready]
    return [p for p in order if p.name not in without and (p.default or p.name in also)]
