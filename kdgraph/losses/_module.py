"""The module of a loss edge: precision and per-sample weights, the same for every loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdgraph.losses.base import Loss, RowLoss


class LossModule(nn.Module):
    """Runs a loss in float32 (float64 stays), whatever precision its inputs have.

    Returns the unweighted value; with a per-sample ``row_weight`` [B] the pair
    ``(unweighted, weighted)``.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(
        self, *, row_weight: Tensor | None = None, **inputs: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        wide = {name: _widen(value) for name, value in inputs.items()}
        device = next(v.device.type for v in inputs.values() if isinstance(v, Tensor))
        with torch.autocast(device, enabled=False):
            if row_weight is None:
                return self.loss.forward(**wide)
            assert isinstance(self.loss, RowLoss)  # attach_losses refuses any other
            mask = wide.pop("mask", None)
            rows = self.loss.rows(**wide)
            keep = self.loss.keep(mask, **wide)
            return self.loss.reduce(rows, keep), self.loss.reduce(rows, keep, row_weight)

    def extra_repr(self) -> str:
        return repr(self.loss)


def _widen(value: Tensor) -> Tensor:
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value
