"""A data set of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from kdgraph.errors import DataError, near
from kdgraph.models.foreign import defined_elsewhere, parsed, trusts
from kdgraph.spec.data import register_data
from kdgraph.spec.types import Form
from kdgraph.train.data.base import DataSet, Splits

if TYPE_CHECKING:
    from torch import Tensor

    from kdgraph.train.data._split import Split

_CALL = Form(r"[A-Za-z0-9_.]+:[A-Za-z0-9_]+", "package.module:callable")


@register_data
class PythonData(DataSet):
    """``python``: whatever ``callable(**args)`` of a trusted module returns.

    It returns a mapping with ``train``, ``val`` and, if there is one, ``test``. Each is either
    a mapping from column to tensor, all rows in memory, or a map-style data set whose rows are
    such mappings, one row each. Images in uint8 are scaled to 0 .. 1.
    """

    use: Literal["python"] = "python"

    call: Annotated[str, _CALL]
    """``package.module:callable``; the module must be trusted by name."""

    args: dict[str, Any] = {}
    """Arguments of the callable."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        if (found := parsed(self.call)) is None:
            raise DataError.of("KD710", f"{self.call} does not name a callable")
        name, attribute = found
        if not trusts(trust, name):
            raise DataError.of(
                "KD710",
                f"python data runs code of the module {name!r}, which is not trusted",
                help=f"--trust {name}",
            )
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise DataError.of("KD710", f"{self.call}: {error}") from error
        if not hasattr(module, attribute):
            hint = near(attribute, vars(module))
            raise DataError.of("KD710", f"module {name!r} has no {attribute!r}", help=hint)
        called = getattr(module, attribute)
        if (home := defined_elsewhere(called, name)) is not None:
            message = f"{self.call} is defined in {home!r}, which {name!r} only imports"
            help = f"write {home}:{attribute}, and trust {home}"
            raise DataError.of("KD710", message, help=help)
        parts = called(**self.args)
        if not isinstance(parts, Mapping) or not {"train", "val"} <= set(parts):
            raise DataError.of("KD719", f"{self.call} must return a mapping with train and val")
        test = parts.get("test")
        return Splits(
            self._split(parts["train"]), self._split(parts["val"]),
            None if test is None else self._split(test), f"split by {self.call}",
        )  # fmt: skip

    def _split(self, part: Any) -> Split:
        from kdgraph.train.data._split import RowSplit, TensorSplit

        if not isinstance(part, Mapping):
            return RowSplit(part, _same)
        if len({len(column) for column in part.values()}) != 1:
            raise DataError.of("KD719", f"{self.call}: columns differ in their number of rows")
        return TensorSplit(part)


def _same(row: dict[str, Tensor]) -> dict[str, Tensor]:
    return row
