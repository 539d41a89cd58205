"""What an adapter is: a small network that makes a student tensor fit a teacher tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdgraph.spec.entry import AdapterEntry
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import nn


class Adapter(AdapterEntry):
    """A link's adapter: built from the two shapes, trained with the student, dropped at export.

    An adapter does its own part and no more: ``conv1x1`` leaves the resolution alone, so that
    several can follow each other in a chain. Whether the result fits is for the losses to say.
    """

    def resolve(self, student: Shape, teacher: Shape) -> Adapter:
        """The adapter that does the work: another one where the choice depends on the shapes.

        Raises:
            ShapeMismatch: when nothing fits.
        """
        return self

    def shape(self, student: Shape, teacher: Shape) -> Shape:
        """The shape after adapting the student tensor.

        Raises:
            ShapeMismatch: when this adapter cannot take the one towards the other.
        """
        raise NotImplementedError  # every registered adapter defines it

    def build(self, student: Shape, teacher: Shape) -> nn.Module:
        """The module, a map from tensor to tensor; its parameters are freshly initialised."""
        raise NotImplementedError  # every registered adapter defines it

    def describe(self) -> str:
        """Its name and what differs from the defaults, as in ``resize(mode=area)``."""
        written = self.model_dump(exclude_defaults=True, exclude={"use"})
        keys = ", ".join(f"{key}={value}" for key, value in written.items())
        return f"{self.use}({keys})" if keys else self.use
