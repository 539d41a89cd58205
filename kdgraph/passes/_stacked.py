"""Layers of several frozen networks as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """N linear layers of equal size: [B, D], or one input each [N, B, D], to [N, B, E].

    The weights are copies [N, D, E]; nothing of it learns.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        weight = torch.stack([layer.weight.detach().T for layer in layers])
        self.register_buffer("weight", weight)
        biases = [b.detach() for x in layers if (b := x._parameters["bias"]) is not None]
        self.register_buffer("bias", torch.stack(biases).unsqueeze(1) if biases else None)

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x = x.expand(len(self.weight), *x.shape)
        if self.bias is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias, x, self.weight)

    def extra_repr(self) -> str:
        n, inputs, outputs = self.weight.shape
        return f"{n} x {inputs} to {outputs}, bias={self.bias is not None}"
