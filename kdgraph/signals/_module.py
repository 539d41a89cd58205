"""The module of a signal node, and what signals share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdgraph.signals.base import Signal


class SignalModule(nn.Module):
    """Runs a signal; it has no state."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self.signal = signal

    def forward(self, **inputs: Tensor | list[Tensor] | float) -> Tensor:
        return self.signal.forward(**inputs)

    def extra_repr(self) -> str:
        return repr(self.signal)


def wide(x: Tensor) -> Tensor:
    """Half precision as float32; other types as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
