"""The module of a loss edge: the same precision for every loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdgraph.losses.base import Loss


class LossModule(nn.Module):
    """Runs a loss in float32 (float64 stays), whatever precision its inputs have.

    Returns the unweighted value; with a per-sample ``row_weight`` [B], which only a ``RowLoss``
    takes, the pair ``(unweighted, weighted)``.
    """

    def __init__(self, loss: Loss, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.loss = loss
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, **inputs: Tensor | float) -> Tensor | tuple[Tensor, Tensor]:
        wide = {name: _widen(value) for name, value in [*inputs.items(), *self._parameters.items()]}
        device = next(v.device.type for v in inputs.values() if isinstance(v, Tensor))
        with torch.autocast(device, enabled=False):
            prepared = {field: run() for field, run in self.loss.parts(**wide).items()}
            value: Tensor | tuple[Tensor, Tensor] = self.loss.forward(**{**wide, **prepared})
        return value

    def extra_repr(self) -> str:
        return repr(self.loss)


def _widen(value: Tensor | float | None) -> Tensor | float | None:
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value
