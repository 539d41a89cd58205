"""The module of a signal node, and what signals share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdgraph.signals.base import Signal
from kdgraph.spec.shapes import class_dim


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


def lined_up(value: Any, like: Tensor) -> Any:
    """A number as it is, a tensor with its dimensions against the first ones of ``like``."""
    if isinstance(value, Tensor) and value.dim() > 0:
        return value.reshape(*value.shape, *[1] * (like.dim() - value.dim()))
    return value


def inside(mask: Tensor, like: Tensor) -> Tensor:
    """Where a mask of samples or positions counts, with a dimension for channels as in ``like``."""
    positions = mask.reshape(*mask.shape, *[1] * (like.dim() - 1 - mask.dim()))
    return (positions != 0).unsqueeze(class_dim(tuple(like.shape)))
