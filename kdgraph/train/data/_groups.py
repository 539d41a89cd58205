"""Parts of a data set out of whole groups of rows: no case is learnt and tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdgraph.errors import DataError
from kdgraph.train.data._split import seeded

PARTS = ("train", "val", "test")
_SHARES = (0.7, 0.15, 0.15)


def split_groups(groups: Sequence[str], labels: Tensor, seed: int) -> tuple[Tensor, ...]:
    """Rows of the training, validation and test part, 70, 15 and 15 % of them as near as can be.

    Whole groups are drawn, class by class; a group counts for the class that most of its rows
    have, the smaller one of two.

    Raises:
        DataError: KD719 when a class has fewer than three groups.
    """
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    by_class: dict[int, list[str]] = {}
    for group in sorted(rows):
        counts = Counter(labels[rows[group]].tolist())
        main = min(counts, key=lambda c: (-counts[c], c))
        by_class.setdefault(int(main), []).append(group)
    parts: list[list[int]] = [[], [], []]
    for label in sorted(by_class):
        own = by_class[label]
        if len(own) < len(PARTS):
            message = f"class {label} has {len(own)} groups of rows, too few for three parts"
            raise DataError.of("KD719", message)
        drawn = torch.randperm(len(own), generator=seeded("groups", seed, label)).tolist()
        for part, some in zip(parts, _dealt([rows[own[i]] for i in drawn]), strict=True):
            part += some
    check_disjoint({n: {groups[i] for i in p} for n, p in zip(PARTS, parts, strict=True)})
    return tuple(torch.tensor(part).sort().values for part in parts)


def _dealt(groups: Sequence[list[int]]) -> list[list[int]]:
    """Groups dealt out, one to each part first and then to the part that lacks most."""
    total = sum(map(len, groups))
    parts: list[list[int]] = [[], [], []]
    for at, group in enumerate(groups):
        lack = [share * total - len(p) for share, p in zip(_SHARES, parts, strict=True)]
        to = at if at < len(parts) else lack.index(max(lack))
        parts[to] += group
    return parts


def check_disjoint(groups: Mapping[str, set[str]]) -> None:
    """Makes sure that no group is in two parts.

    Raises:
        DataError: KD719 with a group that is.
    """
    names = list(groups)
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            shared = groups[one] & groups[other]
            if shared:
                raise DataError.of(
                    "KD719",
                    f"{len(shared)} groups are in both {one} and {other}, such as {min(shared)!r}",
                    help="what is tested would have been learnt; move each group to one side, or "
                    "put all images into one folder for each class and let `groups` split them",
                )


def note_of(groups: Sequence[str]) -> str:
    """How the parts were made, in one sentence."""
    return f"split by {len(set(groups)):,} groups, stratified by class: no group is on two sides"
