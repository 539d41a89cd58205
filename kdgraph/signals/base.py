"""What a signal is: a pure function from tensors to one tensor, with a rule for its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kdgraph.spec.entry import SignalEntry
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor, nn


class Signal(SignalEntry):
    """A derived tensor.

    ``gives`` says what the result is where it is about classes: logits, or probabilities.

    ``Ref`` fields arrive as tensors, ``Refs`` fields as lists of tensors, steered numbers as
    floats or tensors (0-dim, or per sample). Arithmetic on half precision is done, and handed
    on, in float32, as losses compute; what only moves values keeps their type. The methods take
    ``Any`` here so that each signal can name its own tensors, by keyword.
    """

    gives: ClassVar[Literal["logits", "probabilities"] | None] = None

    def shape(self, *_: Any, **shapes: Any) -> Shape:
        """The shape of the result; raises ``ShapeMismatch`` where the inputs do not fit."""
        raise NotImplementedError  # every registered signal defines it

    def forward(self, *_: Any, **inputs: Any) -> Tensor:
        """The derived tensor."""
        raise NotImplementedError  # every registered signal defines it

    def module(self) -> nn.Module:
        """The module that sits in the graph; a signal with buffers of its own overrides this."""
        from kdgraph.signals._module import SignalModule

        return SignalModule(self)
