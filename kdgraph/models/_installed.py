"""``package:NAME/folder``: files that come with an installed Python package. No torch."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
from pathlib import Path

from kdgraph.errors import ModelError, near

PACKAGE = "package:"


def place_of(name: str) -> str:
    """The folder that ``package:NAME`` or ``package:NAME/folder`` means; other names as they are.

    The package is only looked for, on the paths of Python: nothing in it is imported or run.

    Raises:
        ModelError: KD411 where there is no such package, or no such folder in it.
    """
    if not name.startswith(PACKAGE):
        return name
    package, _, inner = name.removeprefix(PACKAGE).partition("/")
    # a PathFinder reads folders alone; find_spec of a dotted name would import what is above it
    found = importlib.machinery.PathFinder.find_spec(package) if package.isidentifier() else None
    for place in found.submodule_search_locations or () if found else ():
        folder = Path(place) / inner
        if folder.is_dir():
            return str(folder)
    if found is None:
        message = f"no Python package {package!r} is installed"
        hint = near(package, importlib.metadata.packages_distributions())
        raise ModelError.of("KD411", message, help=hint or "install what brings it, with pip")
    raise ModelError.of("KD411", f"the package {package!r} has no folder {inner!r}")
