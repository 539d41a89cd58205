"""The module of ``select_classes``: its indices live where the tensors do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdgraph.spec.shapes import class_dim


class SelectClasses(nn.Module):
    """[B, K] to [B, len(classes)], and the same for tokens and maps.

    The indices are a buffer, moved with the module, so that a step copies nothing to the device.
    """

    index: Tensor

    def __init__(self, classes: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor(classes), persistent=False)

    def forward(self, *, of: Tensor) -> Tensor:
        return of.index_select(class_dim(tuple(of.shape)), self.index)

    def extra_repr(self) -> str:
        return f"{len(self.index)} classes"
