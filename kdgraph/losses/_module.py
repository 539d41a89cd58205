"""The module of a loss edge: the same precision for every loss."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from kdgraph.losses.base import Loss


class LossModule(nn.Module):
    """Runs a loss in float32 (float64 stays), whatever precision its inputs have.

    Returns the unweighted value; with a ``row_weight``, per sample [B] or per row, which only a
    ``RowLoss`` takes, the pair ``(unweighted, weighted)``.

    Attributes:
        prepared: the inputs that arrive as the loss's ``parts`` make them, not as raw tensors.
    """

    def __init__(
        self, loss: Loss, parameters: Mapping[str, Tensor], prepared: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.loss = loss
        self.prepared = frozenset(prepared)
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, **inputs: Tensor | float) -> Tensor | tuple[Tensor, Tensor]:
        wide = {name: widen(value) for name, value in [*inputs.items(), *self._parameters.items()]}
        device = next(v.device.type for v in inputs.values() if isinstance(v, Tensor))
        with torch.autocast(device, enabled=False):
            parts = self.loss.parts(**wide)
            wide |= {field: run() for field, run in parts.items() if field not in self.prepared}
            value: Tensor | tuple[Tensor, Tensor] = self.loss.forward(**wide)
        return value

    def extra_repr(self) -> str:
        given = f", prepared: {', '.join(sorted(self.prepared))}" if self.prepared else ""
        return f"{self.loss!r}{given}"


def widen(value: Tensor | float | None) -> Tensor | float | None:
    """Half precision as float32; all else as it is."""
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value
