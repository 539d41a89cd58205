"""Reading a book: rows by sample and view, in any order, from files that stay where they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from torch import Tensor

from kdgraph.book.column import Column


class Book:
    """A finished book, open for reading.

    Rows are read from memory-mapped files; nothing is held but what is asked for. A book may be
    read by several threads and processes at once, and be sent to worker processes, which open
    the files anew.

    Attributes:
        path: the folder.
        columns: what it holds, in order.
        fingerprint: what it was made of, each as a short text: ``weights`` (of the teachers),
            ``subgraph`` (which part of them is run, and how), ``transform`` (what is done to
            samples, with seed and views), ``data``, ``spec`` (columns and signals), ``versions``.
    """

    path: Path
    columns: tuple[Column, ...]
    fingerprint: dict[str, str]

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Opens a book.

        Raises:
            BookError: KD761 there is none, or it is not finished; KD762 its header or its list of
                shards is damaged, or a shard is missing or of another size.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        """Samples; their ids are ``0 .. len - 1``: row numbers of the training rows, unshuffled."""
        raise NotImplementedError

    @property
    def views(self) -> int:
        """Views of each sample, ``0 .. views - 1``; 1 where samples are not augmented."""
        raise NotImplementedError

    def rows(self, ids: Tensor, view: int | Tensor = 0) -> dict[str, Tensor]:
        """Rows of every column, in the order of ``ids``.

        Args:
            ids: [B] int64, repeated or not.
            view: one for all, or [B] int64.

        Returns:
            Name to [B, ...], by the names of ``Column.gives`` of each column: a dense one under
            its own name as float32 (or exactly, where it is of whole numbers), a ``top_k`` one as
            ``NAME.values`` (log-probabilities, float32), ``NAME.ids`` (int64) and ``NAME.tail``
            (probability of all other classes, float32).

        Raises:
            BookError: KD764 a sample or a view that the book does not have.
        """
        raise NotImplementedError

    def check(self, expected: Mapping[str, str]) -> None:
        """Refuses the book where it is not of what is expected.

        Args:
            expected: fields of ``fingerprint``; those left out are not compared.

        Raises:
            BookError: KD763, one diagnostic for each field that differs, which names it.
        """
        raise NotImplementedError
