"""One registry class for everything that a spec can name."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from kdgraph.errors import KDGraphError, near

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to values, found by importing every module of a package.

    A new entry is a new file in ``package``; nothing lists it. A file whose name starts with
    an underscore holds what entries share and is not looked at. Other distributions add
    entries through an entry point of the group ``package`` (for example ``kdgraph.losses``),
    whose target is a module that registers on import.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._discovered = False

    @property
    def listing(self) -> str:
        """The command that shows every entry; it knows kinds by the last word of the package."""
        return f"`kdgraph list {self.package.rpartition('.')[2]}`"

    def add(self, name: str, value: T) -> T:
        """Registers ``value``; a second value under one name is a programming error."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = value
        return value

    def get(self, name: str) -> T:
        """The value called ``name``.

        Raises:
            KDGraphError: KD201, with a near match, when there is none.
        """
        self._discover()
        if name not in self._entries:
            listing = f"{self.listing} shows every {self.kind}"
            hint = near(name, self._entries)
            raise KDGraphError.of(
                "KD201",
                f"unknown {self.kind} {name!r}",
                help=f"{hint} {listing}" if hint else listing,
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self._discover()
        return sorted(self._entries)

    def items(self) -> list[tuple[str, T]]:
        """All entries, sorted by name."""
        self._discover()
        return sorted(self._entries.items())

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True  # set first: an entry may ask for the names while it is imported
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__, prefix=f"{self.package}."):
            if not module.name.rpartition(".")[2].startswith("_"):  # helpers, which may need torch
                importlib.import_module(module.name)
        for point in entry_points(group=self.package):
            point.load()
