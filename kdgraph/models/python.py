"""``python/package.module:callable``: a model of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdgraph.errors import ModelError, near
from kdgraph.models.base import Source, register_source
from kdgraph.models.foreign import defined_elsewhere, parsed

if TYPE_CHECKING:
    from torch import nn


@register_source
class PythonSource(Source):
    """Calls ``callable(**args)`` of an importable module, which the user must have trusted.

    It is defined in that module, or below it where a package only hands it on.
    """

    prefix = "python"

    def build(self, name: str, args: Mapping[str, Any]) -> nn.Module:
        path, attribute = _parse(name)
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{path}.".startswith(f"{error.name}."):
                raise  # the module is there; something that it imports is not
            raise ModelError.of(
                "KD411",
                f"python/ cannot find the module {path!r}",
                help="it must be installed, or its folder be on PYTHONPATH",
            ) from error
        if not hasattr(module, attribute):
            hint = near(attribute, vars(module))
            raise ModelError.of("KD411", f"module {path!r} has no {attribute!r}", help=hint)
        found = getattr(module, attribute)
        if (home := defined_elsewhere(found, path)) is not None:
            raise ModelError.of(
                "KD412",
                f"python/{name} is defined in {home!r}, which {path!r} only imports",
                help=f"write python/{home}:{attribute}, and trust {home}",
            )
        built: nn.Module = found(**args)
        return built

    def names(self) -> list[str]:
        return []  # whatever can be imported; there is no list

    def foreign_module(self, name: str) -> str:
        return _parse(name)[0]


def _parse(name: str) -> tuple[str, str]:
    if (found := parsed(name)) is not None:
        return found
    raise ModelError.of(
        "KD410",
        f"python/{name} does not name a callable",
        help="write python/package.module:callable",
    )
