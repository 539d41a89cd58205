"""Parts of a data set, read a batch at a time."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from kdgraph.errors import DataError


class Split(ABC):
    """Rows with named columns."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Some rows as one batch."""

    @abstractmethod
    def subset(self, indices: Tensor) -> Split:
        """A part of the rows, in the order given."""

    def labels(self) -> Tensor | None:
        """The column ``label`` if it is at hand without reading every row."""
        return None

    def held(self) -> Mapping[str, Tensor]:
        """All that the rows are made of, where it is in memory; else nothing."""
        return {}

    def files(self) -> list[Path]:
        """The files that rows are read from, in the order of rows; none where it is not known."""
        return []


class TensorSplit(Split):
    """Rows in memory: one tensor a column, all of the same length."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        self.tensors = dict(columns)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        index = torch.as_tensor(indices)
        return {name: column[index] for name, column in self.tensors.items()}

    def subset(self, indices: Tensor) -> TensorSplit:
        return TensorSplit({name: column[indices] for name, column in self.tensors.items()})

    def labels(self) -> Tensor | None:
        return self.tensors.get("label")

    def held(self) -> Mapping[str, Tensor]:
        return self.tensors


class Rows(Sized, Protocol):
    """What torch calls a map-style data set."""

    def __getitem__(self, index: int, /) -> Any: ...


class RowSplit(Split):
    """Rows that are read one by one, from files say."""

    def __init__(
        self,
        source: Rows,
        row: Callable[[Any], dict[str, Tensor]],
        indices: Tensor | None = None,
        columns: tuple[str, ...] = (),
        labels: Tensor | None = None,
        files: Sequence[Sequence[str | Path]] = (),
    ) -> None:
        self.source: Any = source
        self.row = row
        self.all_labels = labels  # of the source, whichever rows of it these are
        self.all_files = files  # for each row of the source
        self.indices = torch.arange(len(source)) if indices is None else indices
        self._columns = columns or (tuple(row(source[0])) if len(source) else ())

    @property
    def columns(self) -> tuple[str, ...]:
        return self._columns

    def __len__(self) -> int:
        return len(self.indices)

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        from torch.utils.data import default_collate

        where = self.indices[torch.as_tensor(indices)].tolist()
        batch: dict[str, Tensor] = default_collate([self.row(self.source[i]) for i in where])
        return batch

    def subset(self, indices: Tensor) -> RowSplit:
        return RowSplit(
            self.source, self.row, self.indices[indices], self._columns, self.all_labels,
            self.all_files,
        )  # fmt: skip

    def labels(self) -> Tensor | None:
        return None if self.all_labels is None else self.all_labels[self.indices]

    def files(self) -> list[Path]:
        if not self.all_files:
            return []
        return [Path(file) for i in self.indices.tolist() for file in self.all_files[i]]


def seeded(*parts: object) -> torch.Generator:
    """A generator whose numbers are a pure function of ``parts``."""
    return torch.Generator().manual_seed(seed_of(*parts))


def seed_of(*parts: object) -> int:
    """A seed that is a pure function of ``parts``, the same on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def draw(split: Split, count: int, *seed: object) -> tuple[Tensor, Tensor]:
    """Which rows ``count`` drawn ones are, and which are left; alike from every class if known."""
    order = torch.randperm(len(split), generator=seeded(*seed))
    labels = split.labels()
    if labels is not None and labels.dim() == 1 and not labels.is_floating_point():
        order = order[_interleaved(labels[order])]
    return order[:count].sort().values, order[count:].sort().values


def draw_shots(labels: Tensor, shots: int, classes: Iterable[int], *seed: object) -> Tensor:
    """Which rows ``shots`` of each class are; more shots of one seed are these and others.

    Args:
        labels: a class number for each row, [N]; rows of other numbers are left out.
        shots: how many.
        classes: the numbers.
        seed: what the draw depends on.

    Raises:
        DataError: KD719 for a class with fewer rows.
    """
    order = torch.randperm(len(labels), generator=seeded(*seed))
    kept = []
    for number in classes:
        own = order[labels[order] == number]
        if len(own) < shots:
            message = f"class {number} has {len(own)} training rows, fewer than `shots: {shots}`"
            raise DataError.of("KD719", message, help="take fewer shots, or a larger `limit`")
        kept.append(own[:shots])
    return torch.cat(kept).sort().values


def _interleaved(labels: Tensor) -> Tensor:
    """An order in which every stretch has each class in proportion to its frequency."""
    place = torch.empty(len(labels), dtype=torch.float64)
    for value in torch.unique(labels):
        where = (labels == value).nonzero().squeeze(1)
        place[where] = (torch.arange(len(where), dtype=torch.float64) + 0.5) / len(where)
    return place.argsort(stable=True)
