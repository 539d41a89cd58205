"""What a model source is, and the registry that holds all of them."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from kdgraph.errors import ModelError, near
from kdgraph.registry import Registry

if TYPE_CHECKING:
    from torch import nn


class Source(ABC):
    """Turns the NAME of ``source: PREFIX/NAME``, and its ``args``, into a module.

    A source says what is wrong with a `ModelError`; whatever its library raises is reported
    with the library's own words by `kdgraph.models.load`, so a source need not catch it.
    """

    prefix: ClassVar[str]
    """What stands before the first slash."""

    extra: ClassVar[str | None] = None
    """The extra of kdgraph's own distribution that installs the library, for the hint."""

    @abstractmethod
    def build(self, name: str, args: Mapping[str, Any]) -> nn.Module:
        """The model as its library builds it, pretrained weights included if ``args`` ask."""

    def architecture(self, name: str, args: Mapping[str, Any], *, download: bool) -> nn.Module:
        """The same model without pretrained weights, whatever ``args`` ask.

        Args:
            name: What stands after ``PREFIX/``.
            args: The arguments that `build` takes.
            download: Whether a description of the model (never its weights) may be fetched.
        """
        return self.build(name, args)

    def pretrained(self, name: str, args: Mapping[str, Any]) -> bool:
        """Whether `build` gives the same trained weights each time."""
        return False

    @abstractmethod
    def names(self) -> list[str]:
        """Every name that can be listed; may import the library."""

    def foreign_module(self, name: str) -> str | None:
        """The module of the user's own that ``name`` imports, which then must be trusted."""
        return None

    def library(self, module: str, extra: str | None = None) -> ModuleType:
        """Imports a module of the source's library, or one that ``extra`` installs.

        Raises:
            ModelError: KD414, with the command that installs it.
        """
        try:
            return importlib.import_module(module)
        except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
            top = module.partition(".")[0]
            raise ModelError.of(
                "KD414",
                f"{self.prefix}/ models need {top}, which cannot be imported: {error}",
                help=f"pip install 'kdgraph[{extra or self.extra}]'",
            ) from error

    def unknown(self, name: str) -> ModelError:
        """The error for a name that this source does not have: KD411, with a near match."""
        hint = near(name, self.names())
        listing = f"`kdgraph list models {self.prefix}` shows all"
        return ModelError.of(
            "KD411",
            f"{self.prefix}/ has no model {name!r}",
            help=f"{hint} {listing}" if hint else listing,
        )


SOURCES: Registry[Source] = Registry("model source", "kdgraph.models")

S = TypeVar("S", bound=Source)


def register_source(source: type[S]) -> type[S]:
    """Class decorator: makes ``source`` known under its prefix."""
    SOURCES.add(source.prefix, source())
    return source
