"""Parts of a batch: what each of several processes, or each small batch of several, has of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from torch import Tensor

from kdgraph.spec.language import Spec
from kdgraph.verify.base import NotApplicable


def rows_of(spec: Spec, batch: Mapping[str, Tensor]) -> int:
    """How many rows a batch has.

    Raises:
        NotApplicable: where it cannot be split.
    """
    letters = {e.shape[0] for e in spec.batch.values() if isinstance(e.shape[0], str)}
    if len(letters) != 1:
        sizes = ", ".join(sorted(str(e.shape[0]) for e in spec.batch.values()))
        raise NotApplicable(f"the batch cannot be split: its entries begin with sizes {sizes}")
    return next(len(batch[n]) for n, e in spec.batch.items() if isinstance(e.shape[0], str))


def splits(rows: int, parts: int) -> list[list[int]]:
    """The sizes of an even split and of an uneven one.

    Raises:
        NotApplicable: where there are too few rows.
    """
    shares = range(parts, 0, -1)
    if rows < sum(shares):
        raise NotApplicable(f"{rows} rows are too few for {parts} uneven parts")
    found = []
    for weights in ([1] * parts, list(shares)):
        ends = [rows * end // sum(weights) for end in accumulate(weights)]
        found.append([end - start for start, end in zip([0, *ends], ends, strict=False)])
    return found


def part(
    spec: Spec, batch: Mapping[str, Tensor], sizes: Sequence[int], number: int
) -> dict[str, Tensor]:
    """One part of a batch; entries that are not of rows stay whole."""
    start = sum(sizes[:number])
    return {
        name: value[start : start + sizes[number]]
        if isinstance(spec.batch[name].shape[0], str) else value
        for name, value in batch.items()
    }  # fmt: skip


def told(sizes: Sequence[int]) -> str:
    """``32 + 32``."""
    return " + ".join(map(str, sizes))
