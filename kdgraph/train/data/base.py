"""What a data set of the default run is."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from kdgraph.errors import DataError
from kdgraph.spec.data import DataEntry, Normalise
from kdgraph.train.data.transforms.base import Transform

if TYPE_CHECKING:
    from kdgraph.train.data._split import Split


@dataclass(frozen=True)
class Splits:
    """The parts of a data set.

    Attributes:
        train: what the models learn from.
        val: what is looked at while they learn.
        test: what is looked at once, at the end; None where the data set has no such part.
        note: one sentence on how the parts were made, shown with results.
    """

    train: Split
    val: Split
    test: Split | None
    note: str


class DataSet(DataEntry):
    """A data set: keys of the spec are its fields, ``load`` brings its parts.

    Images come as [C, H, W], uint8 0 .. 255 or float 0 .. 1.
    """

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        """Reads the data.

        Args:
            folder: where relative paths of the spec start from.
            trust: modules of the user's own that may be imported.

        Raises:
            DataError: KD710 when the data cannot be had, KD719 when it is not usable.
        """
        raise NotImplementedError  # every registered data set defines it

    def known_rows(self) -> int | None:
        """Training rows, less what ``limit`` and such leave out; None where only reading tells."""
        return None

    def scaling(self) -> Normalise | None:
        """How images are normalised: as the spec says, else what the data set states."""
        return self.normalise

    def steps(self) -> list[Transform]:
        """The transforms of training batches."""
        return [t for t in self.transforms if isinstance(t, Transform)]


def library(module: str, needed_by: str, extra: str) -> ModuleType:
    """Imports what a data set needs.

    Raises:
        DataError: KD710, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise DataError.of(
            "KD710",
            f"{needed_by} needs {module.partition('.')[0]}, which cannot be imported: {error}",
            help=f"pip install 'kdgraph[{extra}]'",
        ) from error
