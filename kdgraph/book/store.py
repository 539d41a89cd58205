"""Reading a book: rows by sample and view, in any order, from files that stay where they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdgraph.book.header import FOLDER, Header, differing
from kdgraph.book.remote import local
from kdgraph.book.writer import FOREIGN, File, fault, read_list
from kdgraph.errors import BookError

Array = NDArray[Any]
_AGAIN = "`kdgraph book build` with the same spec writes again what is damaged, and only that"


class Book:
    """A finished book, open for reading.

    Rows are read from memory-mapped files; nothing is held but what is asked for. A shard is
    compared with its checksum when a row of it is asked for the first time. A book may be read by
    several threads and processes at once, and be sent to worker processes, which open the files
    anew, but need not compare again what was compared before.

    Attributes:
        path: the folder.
        columns: what it holds, in order.
        fingerprint: what it was made of, each as a short text: ``weights`` (of the teachers),
            ``subgraph`` (which part of them is run, and how), ``transform`` (what is done to
            samples, with seed and views), ``data``, ``spec`` (columns and signals), ``versions``.
    """

    def __init__(self, path: Path, header: Header, names: list[str]) -> None:
        self.path, self.header = path, header
        self.columns, self.fingerprint = header.columns, dict(header.fingerprint)
        self._names = names
        self._mapped: dict[int, dict[str, Array]] = {}
        self._sound: set[int] = set()  # shards whose content was compared with its checksum

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Opens a book.

        Args:
            path: its folder, or a URL that fsspec knows, from where it is fetched.

        Raises:
            BookError: KD761 there is none, or it is not finished; KD762 its header or its list of
                shards is damaged, or a shard is missing or of another size.
        """
        path = local(path)
        header = Header.read(path)
        listed = read_list(path, header)
        if listed is None:
            message = f"the book in {str(path)!r} is not finished, or its list of shards is damaged"
            raise BookError.of("KD761", message, help="`kdgraph book build` goes on with it")
        for name, size in listed:
            file = path / FOLDER / name
            if (found := file.stat().st_size if file.exists() else None) != size:
                what = "is missing" if found is None else f"has {found} bytes, not {size}"
                message = f"the shard {name!r} of the book in {str(path)!r} {what}"
                raise BookError.of("KD762", message, help=_AGAIN)
        return cls(path, header, [name for name, _ in listed])

    def __len__(self) -> int:
        """Samples; their ids are ``0 .. len - 1``: row numbers of the training rows, unshuffled."""
        return self.header.rows

    @property
    def views(self) -> int:
        """Views of each sample, ``0 .. views - 1``; 1 where samples are not augmented."""
        return self.header.views

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
            BookError: KD764 a sample or a view that the book does not have; KD762 a shard that
                is damaged, or none of this book.
        """
        numbers, local = self._places(ids.cpu(), torch.as_tensor(view).cpu())
        kept = self._gather(numbers, local)
        found: dict[str, Tensor] = {}
        for column in self.columns:
            found |= column.decode(kept)
        return found

    def check(self, expected: Mapping[str, str]) -> None:
        """Refuses the book where it is not of what is expected.

        Args:
            expected: fields of ``fingerprint``; those left out are not compared.

        Raises:
            BookError: KD763, one diagnostic for each field that differs, which names it.
        """
        if found := differing(self.fingerprint, expected, f"book in {str(self.path)!r}"):
            raise BookError(found)

    def check_content(self) -> None:
        """Compares every shard with its checksum now, which processes started later need not do.

        Raises:
            BookError: KD762 for the first that is damaged.
        """
        for number in range(len(self._names)):
            self._check_shard(number)

    def _check_shard(self, number: int) -> None:
        if number in self._sound:
            return
        name = self._names[number]
        file = File(number, name, Path(name).stem.rpartition("-")[2])
        if (why := fault(self.path, self.header, file)) is not None:
            message = f"{self._told(name)} is damaged: {why}"
            if why == FOREIGN:
                message = f"{self._told(name)} is of another book"
            raise BookError.of("KD762", message, help=_AGAIN)
        self._sound.add(number)

    def _told(self, name: str) -> str:
        return f"the shard {name!r} of the book in {str(self.path)!r}"

    def _places(self, ids: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """The shard of each sample, and where it is in there."""
        for what, values, count in (("sample", ids, len(self)), ("view", view, self.views)):
            if values.is_floating_point() or values.dtype == torch.bool or values.dim() > 1:
                message = f"numbers of {what}s are whole ones [B], not {list(values.shape)} "
                raise BookError.of("KD764", f"{message}of {values.dtype}")
            wrong = values[(values < 0) | (values >= count)]
            if wrong.numel():
                message = f"the book in {str(self.path)!r} has {count} {what}s, from 0"
                raise BookError.of("KD764", f"{message}: there is no {what} {wrong[0].item()}")
        ids, view = ids.long(), view.long()  # the number of a shard may be too large for theirs
        shard = ids.div(self.header.shard_rows, rounding_mode="floor")
        return view * self.header.shards_per_view + shard, ids - shard * self.header.shard_rows

    def _gather(self, numbers: Tensor, local: Tensor) -> dict[str, Tensor]:
        """Rows as they are kept."""
        # NumPy takes rows of a mapped file faster than torch, and in this thread alone
        order = numbers.argsort(stable=True)
        shards, counts = torch.unique_consecutive(numbers[order], return_counts=True)
        places = np.split(order.numpy(), counts.cumsum(0).numpy())[:-1]
        rows = local.numpy()
        parts = {n: p for column in self.columns for n, p in column.parts.items()}
        found = {n: torch.empty((len(rows), *shape), dtype=d) for n, (shape, d) in parts.items()}
        targets = {name: value.numpy() for name, value in found.items()}
        for number, where in zip(shards.tolist(), places, strict=True):
            mapped = self._map(number)
            for name, target in targets.items():
                target[where] = mapped[name][rows[where]]
        return found

    def _map(self, number: int) -> dict[str, Array]:
        """The arrays of a shard, over its mapped file."""
        if number not in self._mapped:
            self._check_shard(number)
            name = self._names[number]
            try:
                with safe_open(self.path / FOLDER / name, "pt") as file:
                    mark = (file.metadata() or {}).get("kdgraph")
                    # by way of torch: what safetensors gives NumPy is a copy
                    arrays = {key: file.get_tensor(key).numpy() for key in file.keys()}  # noqa: SIM118 - the file is no mapping
            except (SafetensorError, OSError) as error:
                message = f"{self._told(name)} is damaged: {error}"
                raise BookError.of("KD762", message, help=_AGAIN) from error
            if mark != f"{self.header.mark} {number}":
                message = f"{self._told(name)} is of another book"
                raise BookError.of("KD762", message, help=_AGAIN)
            self._mapped[number] = arrays
        return self._mapped[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}
