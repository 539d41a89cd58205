"""The module of a loss edge that a kernel computes where it can."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdgraph.kernels.base import Kernel
from kdgraph.losses._module import LossModule
from kdgraph.losses.base import RowLoss


class KernelLoss(nn.Module):
    """Computes a loss by a kernel, or by its own module where the tensors are none for it.

    Which of the two is decided by each call: a step that was compiled where there is a GPU also
    runs on the CPU, in float64, and under the transforms of ``torch.func``.
    """

    def __init__(self, name: str, kernel: Kernel, plain: LossModule) -> None:
        super().__init__()
        self.name = name
        self.kernel = kernel
        self.plain = plain

    def forward(self, **inputs: Any) -> Tensor | tuple[Tensor, Tensor]:
        if _transformed() or not self.kernel.takes(**inputs):
            value: Tensor | tuple[Tensor, Tensor] = self.plain(**inputs)
            return value
        loss = self.plain.loss
        mask, row_weight = inputs.pop("mask", None), inputs.pop("row_weight", None)
        device = next(v.device.type for v in inputs.values() if isinstance(v, Tensor))
        with torch.autocast(device, enabled=False):
            value = self.kernel.run(loss, **inputs)
            if isinstance(loss, RowLoss):
                value = loss.reduced(value, mask=mask, row_weight=row_weight, **inputs)
        return value

    def extra_repr(self) -> str:
        return self.name


def _transformed() -> bool:
    """Whether ``torch.func`` looks on, which operators of our own do not know."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None
