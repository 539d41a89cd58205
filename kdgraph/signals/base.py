"""What a signal is: a pure function from tensors to one tensor, with a rule for its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdgraph.spec.entry import SignalEntry
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor, nn


class Signal(SignalEntry):
    """A derived tensor. ``Ref`` fields arrive as tensors, ``Refs`` fields as lists of tensors."""

    def shape(self, **shapes: Shape | list[Shape]) -> Shape:
        """The shape of the result; raises ``ShapeMismatch`` where the inputs do not fit."""
        raise NotImplementedError  # every registered signal defines it

    def forward(self, **inputs: Tensor | list[Tensor]) -> Tensor:
        """The derived tensor."""
        raise NotImplementedError  # every registered signal defines it

    def module(self) -> nn.Module:
        """The module that sits in the graph; a signal with state of its own overrides this."""
        from kdgraph.signals._module import SignalModule

        return SignalModule(self)
