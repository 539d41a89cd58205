"""The module of a signal node."""

from __future__ import annotations

from torch import Tensor, nn

from kdgraph.signals.base import Signal


class SignalModule(nn.Module):
    """Runs a signal; it has no state."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self.signal = signal

    def forward(self, **inputs: Tensor | list[Tensor]) -> Tensor:
        return self.signal.forward(**inputs)

    def extra_repr(self) -> str:
        return repr(self.signal)
