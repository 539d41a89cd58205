"""The module of ``number``: a constant lives where the model does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class NumberModule(nn.Module):
    """Gives the number that arrives as a tensor, else the one it was made with.

    The constant is a buffer, so that it moves with the model and a step copies nothing to the
    device; like the buffers of schedules, it follows no cast.
    """

    constant: Tensor

    def __init__(self, constant: float | None) -> None:
        super().__init__()
        start = 0.0 if constant is None else constant
        self.register_buffer("constant", torch.tensor(start), persistent=False)

    def forward(self, *, value: Tensor | float) -> Tensor:
        return value if isinstance(value, Tensor) else self.constant

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NumberModule:
        self.constant = self.constant.to(fn(self.constant).device)
        return self

    def extra_repr(self) -> str:
        return f"{self.constant.item():g}"
