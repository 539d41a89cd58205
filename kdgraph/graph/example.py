"""Example batches: what shapes are worked out with."""

from __future__ import annotations

import torch
from torch import Tensor

from kdgraph.spec.language import Spec

# Sizes that stand for free letters while shapes are worked out; odd, so that they seldom meet
# a size that a model fixes, and never 0 or 1, which are special.
_BATCH, _OTHER = 13, (16, 24, 32, 40, 48)


def letter_sizes(spec: Spec, batch: int | None = None) -> dict[str, int]:
    """The example size of each free letter of the batch; ``batch`` of those that stand first."""
    letters = dict.fromkeys(s for e in spec.batch.values() for s in e.shape if isinstance(s, str))
    first = [e.shape[0] for e in spec.batch.values() if isinstance(e.shape[0], str)]
    others = [x for x in letters if x not in first]
    return {
        **dict.fromkeys((x for x in letters if x in first), batch or _BATCH),
        **{x: _OTHER[i % len(_OTHER)] for i, x in enumerate(others)},
    }


def example_batch(
    spec: Spec, device: torch.device | str = "cpu", batch: int | None = None
) -> dict[str, Tensor]:
    """Tensors of zeros with the shapes and types of the batch, free letters filled in.

    ``batch`` is the number of rows, where the spec leaves it free.
    """
    sizes = letter_sizes(spec, batch)
    return {
        name: torch.zeros(
            [sizes[s] if isinstance(s, str) else s for s in entry.shape],
            dtype=getattr(torch, entry.dtype),
            device=device,
        )
        for name, entry in spec.batch.items()
    }
