"""Data sets of the Hugging Face ``datasets`` library, from the hub or from files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.errors import DataError, near
from kdgraph.spec.data import register_data
from kdgraph.spec.types import Count, Name, Strict
from kdgraph.train.data.base import DataSet, Splits, library

if TYPE_CHECKING:
    from torch import Tensor

    from kdgraph.train.data._split import Split


class Parts(Strict):
    """Names of the parts; the library's slices (``train[90%:]``) work with ``load_dataset``."""

    train: str = "train"
    val: str = "validation"
    test: str | None = "test"


@register_data
class HuggingFace(DataSet):
    """``hf``: a data set by its name on the hub, or a folder.

    A folder that ``save_to_disk`` wrote is read as it is; any other goes to ``load_dataset``,
    which takes folders of Parquet, CSV, JSON lines or images and needs no network for them.
    Numbers and lists of numbers become tensors, pictures uint8 [C, H, W].
    """

    use: Literal["hf"] = "hf"

    path: str
    """A folder, or a name on the hub."""

    config: str | None = None
    """Which configuration of the data set."""

    splits: Parts = Parts()
    """Which part is for what; ``test: null`` where there is none."""

    columns: dict[Name, str]
    """Batch entry to column of the data set."""

    size: Count | None = None
    """Resizes pictures to this height and width, cropped in the centre."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        local = folder / self.path
        saved = (local / "dataset_dict.json").exists()
        parts = [self.splits.train, self.splits.val, self.splits.test]
        train, val, test = (self._part(local, saved, part) for part in parts)
        if train is None or val is None:
            raise DataError.of("KD710", "`splits` must name a training and a validation part")
        return Splits(train, val, test, "split as the data set is")

    def _part(self, local: Path, saved: bool, part: str | None) -> Split | None:
        from kdgraph.train.data._split import RowSplit

        if part is None:
            return None
        datasets = library("datasets", "hf", "hf")
        try:
            if saved:
                data = datasets.load_from_disk(str(local))[part]
            else:
                place = str(local) if local.exists() else self.path
                data = datasets.load_dataset(place, self.config, split=part)
        except Exception as error:  # the library raises many kinds, its own and others'
            said = f"{type(error).__name__}: {error}"
            raise DataError.of("KD710", f"{self.path}, part {part!r}: {said}") from error
        for entry, column in self.columns.items():
            if column not in data.column_names:
                hint = near(column, data.column_names)
                known = ", ".join(data.column_names)
                raise DataError.of(
                    "KD711",
                    f"{self.path} has no column {column!r} for {entry!r}",
                    help=hint or f"columns: {known}",
                )
        data = data.select_columns(list(dict.fromkeys(self.columns.values())))
        return RowSplit(data, self._row, columns=tuple(self.columns))

    def _row(self, row: dict[str, Any]) -> dict[str, Tensor]:
        return {entry: self._tensor(row[column]) for entry, column in self.columns.items()}

    def _tensor(self, value: Any) -> Tensor:
        import torch

        from kdgraph.train.data._image import square, to_tensor

        if hasattr(value, "getbands"):  # a PIL image
            return square(value, self.size) if self.size else to_tensor(value)
        try:
            return torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(value).__name__
            raise DataError.of("KD719", f"{self.path}: a {kind} is no tensor: {error}") from error
