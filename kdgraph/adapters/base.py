"""What an adapter is: a small network that makes a student tensor fit a teacher tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdgraph.spec.entry import AdapterEntry
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import nn


class Adapter(AdapterEntry):
    """A link's adapter: built from the two shapes, trained with the student, dropped at export."""

    def shape(self, student: Shape, teacher: Shape) -> Shape:
        """The shape after adapting the student tensor.

        Raises:
            ShapeMismatch: when this adapter cannot make the one fit the other.
        """
        raise NotImplementedError  # every registered adapter defines it

    def build(self, student: Shape, teacher: Shape) -> nn.Module:
        """The module; its parameters are freshly initialised."""
        raise NotImplementedError  # every registered adapter defines it
