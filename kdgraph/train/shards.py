"""From samples through the teachers to shards of a book."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kdgraph.book import Column, Shard
from kdgraph.book.writer import joined
from kdgraph.errors import BookError
from kdgraph.runtime.teachers import TeachersModule
from kdgraph.spec.book import BookSpec, StoreSpec
from kdgraph.spec.language import Spec
from kdgraph.train.data._split import Split
from kdgraph.train.data._views import ViewBatches, view_loader
from kdgraph.train.data.base import DataSet


@dataclass(frozen=True)
class Source:
    """Where the values come from.

    Attributes:
        split: the training rows.
        data: how they are read.
        book: which views there are.
        module: the teachers' side.
        device: where it is.
    """

    split: Split
    data: DataSet
    book: BookSpec
    module: TeachersModule
    device: torch.device

    def first(self) -> dict[str, Tensor]:
        """What the teachers' side takes of the first batch."""
        data = self.data.model_copy(update={"workers": 0})
        _, batch = next(iter(view_loader(self.split, data, self.book, 0)))
        return self._read(batch)

    def padded(self) -> tuple[int, dict[str, Tensor]] | None:
        """The first row of that batch that has another size by itself, if one has, and itself."""
        batches = ViewBatches(self.split, self.data, self.book, mixing=False)
        whole = self.first()
        for row in range(len(whole[self.module.reads[0]])):
            alone = self._read(batches[0, 0, [row]])
            if any(alone[name].shape[1:] != whole[name].shape[1:] for name in whole):
                return row, alone
        return None

    def shards(
        self, missing: Sequence[Shard], columns: Sequence[Column], tick: Callable[[int], None]
    ) -> Iterator[tuple[Shard, dict[str, Tensor]]]:
        """Shards as they are kept, one after the other; ``tick`` is told of samples."""
        for stretch in stretches(missing):
            first, last = stretch[0], stretch[-1]
            batches = iter(view_loader(
                self.split, self.data, self.book, first.view, first=first.start, stop=last.stop
            ))  # fmt: skip
            for shard in stretch:
                kept: list[dict[str, Tensor]] = []
                done = shard.start
                while done < shard.stop:
                    ids, batch = next(batches)
                    kept.append(self._batch(ids, batch, columns))
                    done += len(ids)
                    tick(len(ids))
                yield shard, joined(kept)

    def _batch(
        self, ids: Tensor, batch: Mapping[str, Tensor], columns: Sequence[Column]
    ) -> dict[str, Tensor]:
        """What is kept of one batch; rows behind the last id only fill it up."""
        values = self.module(**self._read(batch))
        found: dict[str, Tensor] = {}
        for column in columns:
            try:
                found |= column.encode(values[column.name][: len(ids)])
            except BookError as error:
                where = f" (samples {int(ids[0])} to {int(ids[-1])})"
                raise BookError(
                    replace(d, message=d.message + where) for d in error.diagnostics
                ) from error
        return found

    def _read(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the teachers' side takes of a batch."""
        return {name: batch[name].to(self.device) for name in self.module.reads}


def stretches(shards: Sequence[Shard]) -> list[list[Shard]]:
    """Shards grouped so that each group is one run through the samples of a view."""
    found: list[list[Shard]] = []
    for shard in shards:
        if found and found[-1][-1].view == shard.view and found[-1][-1].stop == shard.start:
            found[-1].append(shard)
        else:
            found.append([shard])
    return found


def column_of(name: str, kept: StoreSpec, module: TeachersModule, spec: Spec) -> Column:
    """How one value is kept.

    Raises:
        BookError: KD760 when it cannot be kept so.
    """
    shape, dtype = tuple(module.shapes[name]), module.dtypes[name]
    span = spec.key_span("book", "store", name)
    if not dtype.is_floating_point:
        exact: Any = "bool" if dtype == torch.bool else "int64"
        if kept != StoreSpec():
            message = f"{name!r} is of whole numbers, which are kept exactly"
            raise BookError.of("KD760", message, span=span, help=f"write `{name}: {{}}`")
        return Column(name, shape, exact)
    if kept.top_k is None:
        return Column(name, shape, kept.dtype)
    if not shape or kept.top_k > shape[-1]:
        message = f"{name!r} of {list(shape)} has no {kept.top_k} classes to keep"
        raise BookError.of("KD760", message, span=span)
    if len(shape) > 2:
        message = f"{name!r} of {list(shape)} is a map; `top_k` keeps logits [K] or [L, K], whose "
        message += "classes come last"
        help = "keep it dense: `dtype: float16` or `int8`"
        raise BookError.of("KD760", message, span=span, help=help)
    return Column(name, shape, kept.dtype, "top_k", kept.top_k)


def refuse_unblended(spec: Spec, data: DataSet, columns: Sequence[Column]) -> None:
    """Refuses whole numbers and truth values where rows are mixed: they have no blend.

    Raises:
        BookError: KD760.
    """
    mixing = next((step.use for step in data.steps() if step.scope() == "mix"), None)
    for column in columns:
        if mixing and not any(dtype.is_floating_point for _, dtype in column.gives.values()):
            message = f"{mixing} mixes rows, but {column.name!r} is of whole numbers or truth "
            message += "values, which cannot be mixed"
            span = spec.key_span("book", "store", column.name)
            help = "leave it out, so that its teacher stays in training"
            raise BookError.of("KD760", message, span=span, help=help)
